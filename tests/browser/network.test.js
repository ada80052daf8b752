// Our class under Node against a real server: tokens that end, a network that dies silently, clean-ups that come at once.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { afterEach, beforeEach, test } from 'node:test';
import WebSocket from 'ws';
import { Uringcast } from '../../client/uringcast.js';
import { delay, startServer, within } from './harness.js';

const SECRET = 'a secret of these tests alone, long enough';
const CONFIG = `auth.hs256_secret = "${SECRET}"
auth.leeway_s = 0
[namespaces.vip]
subscribe = "token"
publish = "members"
history_size = 100
[namespaces.chat]
publish = "members"
presence = "events"
history_size = 100
`;

let server;
let clients;
beforeEach(async () => {
  clients = [];
  server = await startServer({ config: CONFIG });
});
afterEach(async () => {
  for (const client of clients) client.disconnect();
  await server?.stop();
});

function sign(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;

function makeClient(url, token, options = {}) {
  const client = new Uringcast(url, { token, env: { WebSocket }, ...options });
  clients.push(client);
  return client;
}

const reaches = (client, wanted) =>
  within(new Promise((resolve) => {
    if (client.state === wanted) return resolve();
    client.on('state', ({ state }) => state === wanted && resolve());
  }), `the state ${wanted}`);

/** Passes on to the server. `kill()`: from then on the connections that are there pass on nothing, and are not closed. */
async function startRelay(port) {
  const sockets = [];
  let alive = { yes: true };
  const relay = createServer((inner) => {
    const mine = alive;
    const outer = connect(port, '127.0.0.1');
    sockets.push(inner, outer);
    for (const [from, to] of [[inner, outer], [outer, inner]]) {
      from.on('data', (data) => mine.yes && to.write(data));
      from.on('close', () => mine.yes && to.destroy());
      from.on('error', () => {});
    }
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  return {
    url: `ws://127.0.0.1:${relay.address().port}/ws`,
    kill() {
      alive.yes = false;
      alive = { yes: true };
    },
    stop() {
      for (const socket of sockets) socket.destroy();
      relay.close();
    },
  };
}

test('tokens of three seconds, for the user and for a channel: renewed several times, never cut', { timeout: 60_000 }, async () => {
  const asked = { user: 0, channel: 0 };
  const client = makeClient(server.ws, async () => (asked.user++, sign({ sub: 1, exp: inSeconds(3) })));
  const room = client.subscribe('vip:1', { token: async () => (asked.channel++, sign({ sub: 1, channel: 'vip:1', exp: inSeconds(3) })) });
  const cuts = [];
  client.on('auth_failed', () => cuts.push('auth_failed'));
  client.on('state', ({ state }) => state === 'waiting' && cuts.push(state));
  client.on('unsubscribed', ({ code }) => cuts.push(code));
  client.connect();
  await within(room.ready, 'the subscription');
  const heard = [];
  room.on('publication', ({ data }) => heard.push(data.data));
  const start = performance.now();
  let count = 0;
  while (performance.now() - start < 8_000) {
    await within(room.publish((count += 1)), 'an acknowledgement');
    await delay(100);
  }
  assert.deepEqual(cuts, []);
  assert.deepEqual(heard, Array.from({ length: count }, (_, index) => index + 1));
  for (const [whose, times] of Object.entries(asked)) assert.ok(times >= 3 && times <= 10, `${times} tokens for the ${whose}`);
});

test('a source that gives the token that it has until just before its end: asked again in time, and not too often', { timeout: 60_000 }, async () => {
  let asked = 0;
  let kept = { ends: 0 };
  const client = makeClient(server.ws, async () => {
    asked += 1;
    if (kept.ends - Date.now() / 1000 < 2) {
      const ends = inSeconds(8);
      kept = { ends, token: sign({ sub: 1, exp: ends }) };
    }
    return kept.token;
  });
  const cuts = [];
  client.on('state', ({ state }) => state === 'waiting' && cuts.push(state));
  client.connect();
  await delay(14_000);
  assert.deepEqual([client.state, cuts], ['online', []]);
  assert.ok(asked <= 14, String(asked));
});

test('a token that is not good yet is taken a little later', { timeout: 30_000 }, async () => {
  const token = sign({ sub: 1, exp: inSeconds(60), nbf: inSeconds(2) });
  let asked = 0;
  const client = makeClient(server.ws, async () => (asked++, token));
  client.connect();
  await reaches(client, 'online');
  assert.ok(asked >= 2 && asked <= 5, String(asked));
});

test('a network that dies silently: what was sent into it arrives once, questions are answered, nothing is missed', { timeout: 60_000 }, async (t) => {
  const relay = await startRelay(server.port);
  t.after(() => relay.stop());
  const options = { checkTimeoutMs: 1_000 };
  const bob = makeClient(server.ws, sign({ sub: 2, name: 'Bob', exp: inSeconds(60) }));
  const heard = [];
  const his = bob.subscribe('chat:a');
  const all = new Promise((resolve) => his.on('publication', ({ data }) => (heard.push(data.data), data.data === 'after it' && resolve())));
  bob.connect();
  const alice = makeClient(relay.url, async () => sign({ sub: 1, name: 'Alice', exp: inSeconds(60) }), options);
  const room = alice.subscribe('chat:a');
  const own = [];
  room.on('publication', ({ data }) => own.push(data.data));
  alice.connect();
  await within(room.ready, 'the subscription');
  await within(his.ready, "Bob's subscription");
  relay.kill();
  const published = room.publish('into the void');
  const members = room.presence();
  alice.check(); // what an app may do for itself; the silence behind `publish` would do too
  await reaches(alice, 'waiting');
  await within(published, 'the acknowledgement');
  assert.ok((await within(members, 'the members')).count >= 1);
  await within(room.publish('after it'), 'the acknowledgement');
  assert.deepEqual(own, ['into the void', 'after it']); // an acknowledgement comes behind the publication
  await within(all, 'the last publication to Bob');
  assert.deepEqual(heard, ['into the void', 'after it']);
});

test("React's StrictMode: subscribe, connect, unsubscribe, disconnect, subscribe, connect", { timeout: 30_000 }, async () => {
  const client = makeClient(server.ws, async () => sign({ sub: 1, exp: inSeconds(60) }));
  const first = client.subscribe('chat:a');
  client.connect();
  first.unsubscribe();
  client.disconnect();
  const second = client.subscribe('chat:a');
  const third = client.subscribe('chat:a');
  client.connect();
  await within(Promise.all([second.ready, third.ready]), 'both subscriptions');
  const heard = new Promise((resolve) => third.on('publication', ({ data }) => resolve(data.data)));
  second.unsubscribe();
  await within(third.publish('still here'), 'the acknowledgement');
  assert.equal(await within(heard, 'the publication'), 'still here');
});

test('from a known position, also beside another subscription of the same channel', { timeout: 30_000 }, async () => {
  const client = makeClient(server.ws, async () => sign({ sub: 1, exp: inSeconds(60) }));
  client.connect();
  const first = client.subscribe('chat:a');
  await within(first.ready, 'the subscription');
  const { epoch } = await first.publish(1);
  for (const value of [2, 3, 4]) await first.publish(value);
  const second = client.subscribe('chat:a', { recover: { epoch, offset: 1 } });
  const heard = [];
  const last = new Promise((resolve) => second.on('publication', ({ data }) => (heard.push(data.data), data.data === 5 && resolve())));
  await first.publish(5);
  await within(last, 'the newest');
  assert.deepEqual(heard, [2, 3, 4, 5]);
});

test("a refused connection costs no time-out with Node's own WebSocket, which may fire `error` without `close`", { timeout: 30_000 }, async (t) => {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 10)) return t.skip('this Node has none');
  const { port } = server;
  await server.stop();
  const url = new URL('../../client/uringcast.js', import.meta.url);
  const program = `
    import { Uringcast } from ${JSON.stringify(url.href)};
    const client = new Uringcast('ws://127.0.0.1:${port}/ws', { token: 'token' });
    client.on('state', ({ state, code, reason }) => {
      if (state !== 'waiting') return;
      console.log(code, reason !== '');
      client.disconnect();
    });
    client.connect();`;
  const flags = major < 22 ? ['--experimental-websocket', '--no-warnings'] : [];
  const child = spawn(process.execPath, [...flags, '--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  await within(once(child, 'close'), 'the end of the program', 8_000); // an attempt has ten seconds
  assert.equal(output, '1006 true\n');
});
