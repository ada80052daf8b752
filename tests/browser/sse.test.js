// Event streams in Chromium: EventSource across a restart of the server, its end for good, and pages of another origin.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import WebSocket from 'ws';
import { DEADLINE_MS, startBrowser, startServer, within } from './harness.js';

const SECRET = 'a secret of the tests of event streams';
const CONFIG = `auth.hs256_secret = "${SECRET}"
[namespaces.chat]
publish = "members"
history_size = 100
`;

let browser;
let server;
let context;
before(async () => (browser = await startBrowser()));
after(() => browser?.close());
beforeEach(async () => {
  server = await startServer({ config: CONFIG });
  context = await browser.newContext();
});
afterEach(async () => {
  await context?.close();
  await server?.stop();
});

function sign(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256' })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + 600 })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

/** A member who publishes over a WebSocket and waits for each acknowledgement. */
async function publisher(user, ...channels) {
  const socket = new WebSocket(server.ws);
  const waiting = new Map();
  socket.on('message', (text) => {
    const message = JSON.parse(text);
    waiting.get(message.id)?.(message);
  });
  const ask = (id, type, data) => within(new Promise((resolve) => {
    waiting.set(id, resolve);
    socket.send(JSON.stringify({ type, id, data }));
  }), `the answer to ${type}`);
  await within(new Promise((resolve) => socket.on('open', resolve)), 'the connection of the publisher');
  await ask('auth', 'auth', { token: sign(user) });
  for (const channel of channels) await ask(`subscribe ${channel}`, 'subscribe', { channel });
  let count = 0;
  return {
    publish: (channel, data) => ask(`publish ${(count += 1)}`, 'publish', { channel, data }),
    close: () => socket.close(),
  };
}

/** An EventSource on the page, and all that its page was told. */
async function listen(page, url) {
  await page.evaluate((url) => {
    window.told = [];
    window.source = new EventSource(url);
    source.onmessage = (event) => told.push({ name: 'message', ...JSON.parse(event.data).data, id: event.lastEventId });
    for (const name of ['subscribed', 'gap', 'draining', 'close', 'channel_error']) {
      source.addEventListener(name, (event) => told.push({ name, data: JSON.parse(event.data), id: event.lastEventId }));
    }
    source.onopen = () => told.push({ name: 'open' });
    source.onerror = () => told.push({ name: 'lost', state: source.readyState });
  }, url);
}

/** Waits until the page was told what `is` says, a function of its list. */
const told = (page, is) => page.waitForFunction(is, undefined, { timeout: DEADLINE_MS });
const all = (page) => page.evaluate(() => told);

test('EventSource comes back after a restart, and nothing is lost or doubled without being named', { timeout: 90_000 }, async () => {
  const page = await context.newPage();
  await page.goto(server.http);
  await listen(page, `/sse?channel=chat:a&channel=chat:b&token=${sign('ann')}`);
  await told(page, () => told.filter(({ name }) => name === 'subscribed').length === 2);
  let bob = await publisher('bob', 'chat:a', 'chat:b');
  for (const n of [1, 2, 3]) {
    await bob.publish('chat:a', n);
    await bob.publish('chat:b', -n);
  }
  await told(page, () => told.filter(({ name }) => name === 'message').length === 6);
  bob.close();

  const { port } = server;
  await server.stop();
  await told(page, () => told.some(({ name }) => name === 'close') && told.some(({ name, state }) => name === 'lost' && state === 0));
  server = await startServer({ port, config: CONFIG });
  // What is published before the page is back has to reach it too.
  bob = await publisher('bob', 'chat:a', 'chat:b');
  await bob.publish('chat:a', 4);
  await told(page, () => told.filter(({ name }) => name === 'subscribed').length === 4);
  await bob.publish('chat:a', 5);
  await bob.publish('chat:b', -5);
  await told(page, () => told.some(({ data }) => data === 5) && told.some(({ data }) => data === -5));
  bob.close();

  const list = await all(page);
  const close = list.find(({ name }) => name === 'close');
  assert.deepEqual(close.data, { code: 1001, reason: 'server is going away', reconnect: true });
  const messages = list.filter(({ name }) => name === 'message').map(({ data }) => data);
  const gaps = list.filter(({ name }) => name === 'gap').map(({ data }) => data.data);
  for (const n of [1, 2, 3, -1, -2, -3, 5, -5]) assert.equal(messages.filter((other) => other === n).length, 1, `${n} in ${messages}`);
  // The history of a restarted server is another: what was published meanwhile is a gap, or came live.
  const lost = gaps.filter(({ channel, reason }) => channel === 'chat:a' && reason === 'history_lost');
  assert.equal(messages.filter((other) => other === 4).length + lost.length, 1, JSON.stringify(list));
  // Each id has the positions of both channels.
  for (const { id } of list.filter(({ name }) => name === 'message')) assert.match(id, /^[0-9a-f]{16}\.\d+_[0-9a-f]{16}\.\d+$/);
});

test('what was missed while the network was gone comes exactly once', { timeout: 60_000 }, async () => {
  const page = await context.newPage();
  await page.goto(server.http);
  await listen(page, `/sse?channel=chat:a&token=${sign('ann')}`);
  await told(page, () => told.some(({ name }) => name === 'subscribed'));
  const bob = await publisher('bob', 'chat:a');
  await bob.publish('chat:a', 1);
  await told(page, () => told.some(({ data }) => data === 1));
  const id = (await all(page)).find(({ data }) => data === 1).id;
  await page.evaluate(() => source.close());
  await bob.publish('chat:a', 2);
  await bob.publish('chat:a', 3);
  // A page that makes a new EventSource goes on where the old one was.
  await listen(page, `/sse?channel=chat:a&token=${sign('ann')}&last_event_id=${id}`);
  await told(page, () => told.some(({ data }) => data === 3));
  assert.deepEqual((await all(page)).filter(({ name }) => name === 'message').map(({ data }) => data), [2, 3]);
  bob.close();
});

test('a stream that is closed for good is not asked for again', { timeout: 60_000 }, async () => {
  const page = await context.newPage();
  const answers = [];
  page.on('response', (response) => response.url().includes('/sse') && answers.push(response.status()));
  await page.goto(server.http);
  await listen(page, `/sse?channel=chat:a&token=${sign('ann')}`);
  await told(page, () => told.some(({ name }) => name === 'subscribed'));
  const other = await publisher('ann', 'chat:a');
  await told(page, () => source.readyState === EventSource.CLOSED);
  const close = (await all(page)).find(({ name }) => name === 'close');
  assert.deepEqual([close.data.code, close.data.reconnect, close.id], [4409, false, '!4409']);
  assert.deepEqual(answers, [200, 204]);
  other.close();
});

test('a page of another origin reads a stream if origins lists it', { timeout: 60_000 }, async () => {
  const elsewhere = await startServer({ config: `origins = ["${server.http}"]\n${CONFIG}` });
  try {
    const page = await context.newPage();
    await page.goto(server.http);
    await listen(page, `${elsewhere.http}/sse?channel=chat:a&token=${sign('ann')}`);
    await told(page, () => told.some(({ name }) => name === 'subscribed'));
    await page.evaluate(() => source.close());
    // With the token in a header a page asks first (a preflight), and may read why it is refused.
    const refused = await page.evaluate(async (url) => {
      const answer = await fetch(url, { headers: { Authorization: 'Bearer no.good.token' } });
      return [answer.status, await answer.json()];
    }, `${elsewhere.http}/sse?channel=chat:a`);
    assert.equal(refused[0], 401);
    assert.equal(refused[1].code, 401);
  } finally {
    await elsewhere.stop();
  }
});
