// Our class under Node on channels of a real server: two clients in one room, one of which loses its connection.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import WebSocket from 'ws';
import { Uringcast } from '../../client/uringcast.js';
import { startServer, within } from './harness.js';

const CONFIG = '[namespaces.chat]\npublish = "members"\npresence = "events"\nhistory_size = 50\n';
const ROOM = 'chat:room';

let server;
let clients;
beforeEach(async () => {
  clients = [];
  server = await startServer({ config: CONFIG });
});
afterEach(async () => {
  for (const { client } of clients) client.disconnect();
  await server?.stop();
});

/** A client that comes back when told to (`client.connect()`), its subscription to the room, and all that this told. */
async function member(name) {
  const sockets = [];
  class Cuttable extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  // Its own waits are longer than any test.
  const options = { token: () => server.token(name), env: { WebSocket: Cuttable, random: () => 1 }, backoffBaseMs: 600_000, backoffMaxMs: 600_000 };
  const client = new Uringcast(server.ws, options);
  const room = client.subscribe(ROOM);
  const told = [];
  const waiting = new Set();
  const tell = (type, value) => {
    told.push([type, value]);
    for (const check of waiting) check();
  };
  room.on('publication', ({ data }) => tell('publication', data.data));
  room.on('message', ({ data }) => tell('message', data.text));
  room.on('gap', ({ data }) => tell('gap', [data.from, data.to]));
  room.on('join', ({ data }) => tell('join', data.user.username));
  room.on('leave', ({ data }) => tell('leave', data.user.username));
  room.on('subscribed', ({ data }) => tell('subscribed', data.recovered));
  room.on('unsubscribed', ({ code }) => tell('unsubscribed', code));
  room.on('error', ({ code }) => tell('error', code));
  client.on('state', ({ state }) => tell('state', state));
  const until = (type, value) => {
    const fits = (entry) => entry[0] === type && JSON.stringify(entry[1]) === JSON.stringify(value);
    const came = new Promise((resolve) => {
      const check = () => told.some(fits) && (waiting.delete(check), resolve());
      waiting.add(check);
      check();
    });
    return within(came, `${type} ${JSON.stringify(value)} for ${name}, who was told ${JSON.stringify(told)}`);
  };
  const all = {
    client, room, told, until,
    sent: () => sockets.length,
    /** Without a Close, as when the network goes. */
    async cut() {
      told.length = 0;
      sockets.at(-1).terminate();
      await until('state', 'waiting');
    },
    async back() {
      told.length = 0;
      client.connect();
      await until('state', 'online');
    },
    /** What the room told, states and comings and goings left out. */
    heard: () => told.filter(([type]) => !['state', 'join', 'leave'].includes(type)),
  };
  clients.push(all);
  client.connect();
  await within(room.ready, 'the subscription');
  return all;
}

const publications = (...values) => values.map((value) => ['publication', value]);

test('a cut connection: exactly what was missed, once, in order, before anything newer', { timeout: 60_000 }, async () => {
  const alice = await member('Alice');
  const bob = await member('Bob');
  await alice.until('join', 'Bob');
  await alice.room.publish({ n: 1 });
  await bob.until('publication', { n: 1 });
  await bob.cut();
  await alice.until('leave', 'Bob');
  for (const n of [2, 3]) await alice.room.publish({ n });
  await alice.client.send('a text', { channel: ROOM });
  const offline = bob.room.publish('from Bob, offline'); // queued: it goes out when the room is back
  const lobby = [];
  bob.client.on('message', ({ data }) => data.channel === 'lobby' && lobby.push(data.text));
  await alice.client.send('to the lobby');

  await bob.back();
  await within(offline, 'the acknowledgement');
  await alice.room.publish('live');
  await bob.until('publication', 'live');
  assert.deepEqual(bob.heard(), [
    ['subscribed', true], ...publications({ n: 2 }, { n: 3 }), ['message', 'a text'], ...publications('from Bob, offline', 'live'),
  ]);
  assert.deepEqual(lobby, ['to the lobby']);
  assert.deepEqual(bob.room.position, alice.room.position);
  assert.equal(bob.room.position.offset, 6);
});

test('cut again and again while another publishes: nothing lost, nothing doubled', { timeout: 60_000 }, async () => {
  const alice = await member('Alice');
  const bob = await member('Bob');
  const seen = [];
  bob.room.on('publication', ({ data }) => seen.push(data.data));
  for (let round = 0; round < 8; round += 1) {
    // Some before the cut, on their way during it, and after it. The next cut may come before the room is back.
    const acks = [0, 1, 2].map((n) => alice.room.publish(round * 6 + n));
    await bob.cut();
    acks.push(...[3, 4, 5].map((n) => alice.room.publish(round * 6 + n)));
    await bob.back();
    await within(Promise.all(acks), 'the acknowledgements');
  }
  await alice.room.publish('end');
  await bob.until('publication', 'end');
  assert.deepEqual(seen, [...Array(48).keys(), 'end']);
});

test('more missed than the history holds: not recovered, and a gap says what is missing', { timeout: 60_000 }, async () => {
  const alice = await member('Alice');
  const bob = await member('Bob');
  await bob.cut();
  await Promise.all(Array.from({ length: 60 }, (_, index) => alice.room.publish(index + 1)));
  await bob.back();
  await bob.until('gap', [1, 60]);
  await alice.room.publish('live');
  await bob.until('publication', 'live');
  assert.deepEqual(bob.heard(), [['subscribed', false], ['gap', [1, 60]], ['publication', 'live']]);
  const { publications: kept, offset } = await bob.room.history({ reverse: true, limit: 3 });
  assert.deepEqual([offset, kept.map(({ data }) => data)], [61, ['live', 60, 59]]);
});

test('a restart of the server is a new epoch: a gap, and then what is new', { timeout: 60_000 }, async () => {
  const alice = await member('Alice');
  const bob = await member('Bob');
  await alice.room.publish('old');
  await bob.until('publication', 'old');
  const { epoch } = bob.room.position;
  // `draining` has both come back after half a second by themselves; a cut before it has not.
  for (const one of [alice, bob]) await one.cut();
  const { port } = server;
  await server.stop();
  server = await startServer({ port, config: CONFIG });
  await alice.back();
  await alice.until('subscribed', false);
  for (const text of ['new 1', 'new 2']) await alice.room.publish(text);
  await bob.back();
  await bob.until('gap', [1, 2]);
  await alice.room.publish('new 3');
  await bob.until('publication', 'new 3');
  assert.deepEqual(alice.heard(), [['subscribed', false], ...publications('new 1', 'new 2', 'new 3')]);
  assert.deepEqual(bob.heard(), [['subscribed', false], ['gap', [1, 2]], ['publication', 'new 3']]);
  assert.notEqual(bob.room.position.epoch, epoch);
  assert.deepEqual(bob.room.position, alice.room.position);
});

test('refusals, presence, and leaving', { timeout: 60_000 }, async () => {
  const alice = await member('Alice');
  const bob = await member('Bob');
  await assert.rejects(within(alice.client.subscribe('nowhere:room').ready, 'a refusal'), { code: 404, outcome: 'refused' });
  const early = new Uringcast(server.ws, { token: () => server.token('Early'), env: { WebSocket } });
  clients.push({ client: early });
  const nowhere = early.subscribe('nowhere:room'); // with the sign-in
  early.connect();
  await assert.rejects(within(nowhere.ready, 'a refusal'), { code: 404, outcome: 'refused' });

  const { count, members } = await alice.room.presence({ limit: 10 });
  assert.deepEqual([count, members.map(({ user }) => user.username).sort()], [2, ['Alice', 'Bob']]);
  const first = await alice.room.publish('once', { idempotencyKey: 'k', key: 'a' });
  assert.deepEqual(await alice.room.publish('once', { idempotencyKey: 'k', key: 'a' }), { ...first, duplicate: true });
  await assert.rejects(alice.room.publish('other', { idempotencyKey: 'k' }), { code: 409 });
  await bob.until('publication', 'once');

  bob.room.unsubscribe();
  await alice.until('leave', 'Bob');
  const anew = bob.client.subscribe(ROOM);
  assert.equal((await within(anew.ready, 'the new subscription')).offset, 1);
  await alice.room.publish('after');
  assert.deepEqual(bob.told.filter(([type]) => type === 'publication'), publications('once'));

  // In one breath: the answers to each find their own.
  const waves = [1, 2, 3].map(() => {
    const wave = alice.client.subscribe('chat:other');
    const fate = wave.ready.then(() => 'subscribed', (error) => error.code);
    wave.unsubscribe();
    return fate;
  });
  assert.deepEqual(await within(Promise.all(waves), 'three fates'), ['closed', 'closed', 'closed']);
  const last = alice.client.subscribe('chat:other');
  await within(last.ready, 'the last one');
  assert.equal((await last.publish(1)).offset, 1);
});

test('the most that one sign-in may ask for, and one more', { timeout: 60_000 }, async () => {
  const client = new Uringcast(server.ws, { token: () => server.token('Many'), env: { WebSocket } });
  clients.push({ client });
  const rooms = Array.from({ length: 129 }, (_, index) => client.subscribe(`chat:${index}`));
  client.connect();
  await within(Promise.all(rooms.slice(0, 128).map(({ ready }) => ready)), 'the subscriptions');
  await assert.rejects(within(rooms[128].ready, 'a refusal'), { code: 429 }); // the server's bound is 128 too
});
