// permessage-deflate with clients that others wrote: Chromium, `ws`, and our class on either. What each negotiated it says
// itself (`extensions`), and the server's own numbers say that messages went compressed in both directions.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import WebSocket from 'ws';
import { Uringcast } from '../../client/uringcast.js';
import { messages, openTab, say, signIn, startBrowser, startServer, within } from './harness.js';

const CONFIG = '[compression]\nmode = "forced"\n\n[http]\nlisten = "127.0.0.1:0"\nkeys = ["a-key-of-the-browser-tests"]\n';
const LONG = 'a line that resembles itself, '.repeat(30);

let server;
before(async () => {
  server = await startServer({ config: CONFIG });
});
after(() => server?.stop());

/** How much each number grew while `body` ran. */
async function growth(names, body) {
  const read = () => Promise.all(names.map((name) => server.metric(`uringcast_${name}_total`)));
  const before = await read();
  await body();
  return (await read()).map((value, index) => value - before[index]);
}

const COUNTS = ['upgrades_deflate', 'inflated_messages', 'deflated_publications'];

test('Chromium speaks it with the demo page', { timeout: 60_000 }, async (t) => {
  const browser = await startBrowser();
  t.after(() => browser.close());
  const grown = await growth(COUNTS, async () => {
    const [alice, bob] = [await openTab(await browser.newContext(), server), await openTab(await browser.newContext(), server)];
    await signIn(alice, 'Alice');
    await signIn(bob, 'Bob');
    for (const text of [LONG, `${LONG} again`]) {
      await say(alice, text.trim());
      assert.equal(await messages(bob, text.trim()), 1);
      assert.equal(await messages(alice, text.trim()), 1);
    }
    for (const tab of [alice, bob]) {
      const extensions = await tab.page.evaluate(() => window.sockets.map((socket) => socket.extensions));
      assert.equal(extensions.length, 1);
      assert.match(extensions[0], /^permessage-deflate/);
      assert.deepEqual(tab.errors, []);
    }
  });
  assert.equal(grown[0], 2, 'upgrades with compression');
  assert.ok(grown[1] >= 4 && grown[2] >= 2, `both ways: ${grown}`);
});

test('our class on ws speaks it', { timeout: 30_000 }, async () => {
  const sockets = [];
  class Kept extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  const grown = await growth(COUNTS, async () => {
    const connect = (name) => new Uringcast(server.ws, { token: () => server.token(name), env: { WebSocket: Kept } });
    const [client, other] = [connect('Ours'), connect('Other')];
    const heard = new Promise((resolve) => other.on('message', ({ data }) => resolve(data.text)));
    const online = new Promise((resolve) => other.on('state', ({ state }) => state === 'online' && resolve()));
    other.connect();
    await within(online, 'the other one');
    client.connect();
    // ws compresses from 1,024 bytes up.
    const text = LONG.repeat(2).trim();
    await within(client.send(text), 'the acknowledgement');
    assert.equal(await within(heard, 'the message'), text);
    assert.deepEqual(sockets.map((socket) => socket.extensions), ['permessage-deflate', 'permessage-deflate']);
    client.disconnect();
    other.disconnect();
  });
  assert.deepEqual(grown.map((value) => value > 0), [true, true, true], `${grown}`);
});

test('ws has its messages back as they were, whatever it offers', { timeout: 60_000 }, async () => {
  const url = `${server.ws.replace(/\/ws$/, '')}/echo`;
  for (const perMessageDeflate of [
    { threshold: 0 },
    { threshold: 0, serverMaxWindowBits: 9 },
    { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
    { threshold: 0, serverMaxWindowBits: 12, clientMaxWindowBits: 10 },
  ]) {
    const socket = new WebSocket(url, { perMessageDeflate });
    const inbox = [];
    let arrived = () => {};
    socket.on('message', (data) => arrived(inbox.push(data)));
    await within(new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject)), 'the upgrade');
    for (const size of [0, 1, 255, 256, 5_000, 300_000]) {
      const sent = Buffer.alloc(size, 'back as it was, ');
      const echo = new Promise((resolve) => (arrived = resolve));
      socket.send(sent);
      await within(echo, `the echo of ${size} bytes`);
      assert.ok(inbox.pop().equals(sent), `${size} bytes, ${JSON.stringify(perMessageDeflate)}`);
    }
    socket.close();
  }
  const refused = new WebSocket(url, { perMessageDeflate: false });
  const error = await within(new Promise((resolve) => refused.once('error', resolve)), 'the refusal');
  assert.match(error.message, /400/);
});
