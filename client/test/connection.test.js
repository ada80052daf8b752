// Connections that die silently, machines that lack something, pages that go away and come back.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Uringcast } from '../uringcast.js';
import { fate, FakeSocket, later, setUp, settle } from './fakes.js';

const pong = (timestamp) => ({ type: 'heartbeat', code: 200, message: 'pong', timestamp });

// ---- a silently dead connection ----

test('a message that a dead connection swallowed is repeated after the reconnect, and its promise resolves', async () => {
  const { client, clock, sockets, last, online, signIn } = setUp();
  await online();
  const sent = client.send('into the void');
  const [before] = last().of('message');
  await clock.advance(2_500);
  assert.equal(last().of('heartbeat').length, 1, 'silence behind a request is a reason to ask for a sign of life');
  await clock.advance(5_000);
  assert.equal(client.state, 'waiting');
  await clock.advance(500);
  assert.equal(sockets.length, 2);
  await signIn();
  const [after] = last().of('message');
  assert.deepEqual([after.data.text, after.data.idempotency_key], ['into the void', before.data.idempotency_key]);
  last().push({ type: 'ack', id: after.id, code: 200, data: { offset: 8, duplicate: true } });
  assert.deepEqual(await sent, { offset: 8, duplicate: true });
});

test('a message is never given up as unknown while it can still be repeated', async () => {
  const { client, clock, last, online, signIn } = setUp({ heartbeatIntervalMs: Infinity });
  await online();
  const sent = later(client.send('slow'));
  for (let round = 0; round < 100; round += 1) {
    await clock.advance(1_000);
    if (client.state === 'online') last().push(pong()); // it lives, and acknowledges nothing
    else if (client.state === 'connecting') await signIn();
  }
  assert.equal(await fate(sent), 'pending');
  await clock.advance(140_000);
  assert.deepEqual(await fate(sent), { code: 'expired', outcome: 'unknown' });
  assert.equal(client.queued, 0);
});

test('timeoutMs gives a message up earlier, never later than its lifetime', async () => {
  const { client, clock } = setUp();
  const early = later(client.send('early', { timeoutMs: 1_000 }));
  const late = later(client.send('late', { timeoutMs: Infinity }));
  await clock.advance(1_000);
  assert.deepEqual([await fate(early), await fate(late)], [{ code: 'expired', outcome: 'not_sent' }, 'pending']);
  await clock.advance(239_000);
  assert.deepEqual(await fate(late), { code: 'expired', outcome: 'not_sent' });
});

test('a message that slept through the life of its key is not sent again', async () => {
  const { client, clock, last, online, signIn } = setUp();
  await online();
  const sent = later(client.send('yesterday'));
  last().drop(1006);
  clock.sleep(3_600_000);
  await clock.advance(500);
  await signIn();
  assert.deepEqual(last().of('message'), []);
  assert.deepEqual(await fate(sent), { code: 'expired', outcome: 'unknown' });
});

test('check(): a sign of life in time keeps the connection, silence ends it', async () => {
  const { client, clock, last, states, online } = setUp();
  await online();
  assert.equal(client.check(), client);
  client.check();
  assert.equal(last().of('heartbeat').length, 1, 'one question at a time');
  await clock.advance(4_999);
  last().push(pong());
  await clock.advance(10_000);
  assert.equal(client.state, 'online');
  client.connect(); // online this is a check
  assert.equal(last().of('heartbeat').length, 2);
  await clock.advance(5_000);
  assert.equal(client.state, 'waiting');
  assert.equal(states.at(-1).code, 4504);
});

test('check(): what comes out of a buffer is no answer', async () => {
  const { client, clock, last, online } = setUp();
  await online();
  client.check();
  last().push({ type: 'user_online', data: {} });
  await clock.advance(1);
  last().push({ type: 'user_online', data: {} });
  await clock.advance(4_999);
  assert.equal(client.state, 'online', 'asked once more');
  assert.equal(last().of('heartbeat').length, 2);
  await clock.advance(5_000);
  assert.equal(client.state, 'waiting');
});

test('check() shortens the usual wait for a sign of life, and an attempt that hangs', async () => {
  const { client, clock, last, online } = setUp({ heartbeatIntervalMs: 20_000, heartbeatTimeoutMs: 10_000 });
  await online();
  await clock.advance(20_000);
  client.check();
  await clock.advance(5_000);
  assert.equal(client.state, 'waiting');
  client.check();
  await settle();
  assert.equal(client.state, 'connecting', 'waiting: at once');
  client.check();
  await clock.advance(4_999);
  assert.equal(client.state, 'connecting');
  await clock.advance(1);
  assert.equal(client.state, 'waiting');
  assert.equal(last().closedWith, 1000);
});

test('check() before connect() and after the end does nothing', async () => {
  const { client, clock, sockets } = setUp();
  client.check();
  client.disconnect();
  client.check();
  await clock.advance(60_000);
  assert.deepEqual([client.state, sockets.length], ['closed', 0]);
});

test('after a sleep the connection is checked within five seconds, and the token too', async () => {
  let calls = 0;
  const { client, clock, last, online } = setUp({ token: async () => `token ${++calls}` });
  await online(60_000);
  await clock.advance(6_000);
  clock.sleep(20_000);
  await clock.advance(4_000);
  assert.equal(last().of('heartbeat').length, 1);
  last().push(pong());
  assert.equal(client.state, 'online');
  await clock.advance(1_000);
  assert.equal(calls, 2, '30 s before the end, of which 20 were slept through');
});

test('a timer that is late is no proof that the connection is dead', async () => {
  const { client, clock, last, online } = setUp();
  await online();
  client.check();
  await clock.freeze(60_000); // the page stood still; the answer lies in the socket
  assert.equal(client.state, 'online');
  last().push(pong());
  await clock.advance(10_000);
  assert.equal(client.state, 'online');
});

// ---- the page ----

for (const fire of ['online', 'pageshow', 'visible']) {
  const signal = (page) => (fire === 'visible' ? page.show('visible') : page.fire(fire));
  test(`${fire}: an open connection is checked, a wait is over`, async () => {
    const { client, clock, page, sockets, last, online } = setUp();
    await online();
    signal(page);
    assert.equal(last().of('heartbeat').length, 1);
    await clock.advance(5_000);
    assert.equal(client.state, 'waiting');
    await clock.advance(500);
    last().drop(1006);
    assert.equal(client.state, 'waiting');
    const before = sockets.length;
    signal(page);
    await settle();
    assert.equal(sockets.length, before, 'not within a second of the last attempt');
    client.connect();
    await settle();
    last().drop(1006);
    last().drop(1006);
    await clock.advance(1_000);
    signal(page);
    await settle();
    assert.equal(sockets.length, before + 2);
    client.disconnect();
    signal(page);
    await clock.advance(60_000);
    assert.equal(sockets.length, before + 2, 'after the end it is deaf');
  });
}

test('a page that is hidden is no reason; nor does one end a wait that the server asked for', async () => {
  const { client, clock, page, sockets, last, online } = setUp({ token: async () => 'token' });
  await online();
  page.show('hidden');
  assert.equal(last().of('heartbeat').length, 0);
  last().push({ type: 'draining', data: { reconnect_in_ms: 30_000 } });
  last().drop(1001);
  await clock.advance(5_000);
  page.fire('online');
  await settle();
  assert.deepEqual([client.state, sockets.length], ['waiting', 1]);
});

test('a page that is left closes its connection, and has it back when it returns', async () => {
  const { client, clock, page, sockets, last, online, signIn } = setUp();
  await online();
  const sent = client.send('on the way');
  await clock.advance(2_000);
  page.fire('pagehide');
  assert.equal(sockets[0].closedWith, 1000, 'no page with an open socket is kept');
  assert.equal(client.state, 'waiting');
  page.fire('pageshow');
  await signIn();
  assert.equal(client.state, 'online');
  last().push({ type: 'ack', id: last().of('message')[0].id, code: 200, data: { offset: 8 } });
  assert.deepEqual(await sent, { offset: 8 });
});

test('a global object whose events are half there does no harm', async () => {
  for (const page of [{}, { addEventListener() {} }, { document: {} }, undefined, null]) {
    const { client, online } = setUp({ env: { page } });
    await online();
    client.disconnect();
    assert.equal(client.state, 'closed');
  }
});

// ---- what is missing ----

test('a socket that fires `error` and never `close` costs a moment, not the whole time-out', async () => {
  const { client, clock, states, last } = setUp();
  client.connect();
  await settle();
  last().onerror({ message: 'connect ECONNREFUSED' });
  await clock.advance(100);
  assert.equal(client.state, 'waiting');
  assert.deepEqual([states.at(-1).code, states.at(-1).reason], [1006, 'connect ECONNREFUSED']);
});

test('a `close` behind the `error` says more', async () => {
  const { client, clock, last, online } = setUp();
  await online();
  last().onerror({});
  last().onclose({ code: 1009, reason: '' });
  assert.equal(client.ended.code, 1009);
  await clock.advance(1_000);
  assert.equal(client.state, 'closed');
});

test('without a WebSocket the client ends with a reason that says what to do, and so do its promises', async () => {
  for (const WebSocket of [undefined, null, {}]) {
    const { client } = setUp({ env: { WebSocket } });
    const room = client.subscribe('news');
    const sent = later(client.send('hi'));
    client.connect();
    await settle();
    assert.equal(client.state, 'closed');
    assert.match(client.ended.reason, /pass one as env\.WebSocket/);
    for (const promise of [sent, room.ready, client.send('hi'), client.users(), client.request('x'), room.history(), room.presence(), room.publish(1)]) {
      await assert.rejects(promise, { name: 'UringcastError', code: 'closed', message: /env\.WebSocket/, cause: client.ended });
    }
  }
});

test('without crypto the keys come from elsewhere', async () => {
  const whole = Object.getOwnPropertyDescriptor(globalThis, 'crypto');
  try {
    for (const value of [undefined, {}, { getRandomValues() { throw new Error('not here'); } }]) {
      Object.defineProperty(globalThis, 'crypto', { value, configurable: true, writable: true });
      const { client, last, online } = setUp({ random: Math.random });
      await online();
      client.send('one').catch(() => {});
      client.send('two').catch(() => {});
      const [one, two] = last().of('message').map(({ data }) => data.idempotency_key);
      assert.match(one, /^[0-9a-f]{32}$/);
      assert.notEqual(one, two);
    }
  } finally {
    Object.defineProperty(globalThis, 'crypto', whole);
  }
});

test('a socket whose send() throws loses nothing', async () => {
  class Throwing extends FakeSocket {
    send(text) {
      if (JSON.parse(text).type === 'message') throw new Error('mine');
      super.send(text);
    }
  }
  const { client } = setUp({ env: { WebSocket: Throwing } });
  const sent = later(client.send('hi'));
  client.connect();
  await settle();
  assert.equal(await fate(sent), 'pending');
});

test('the end gives its cause to every promise: what waited, and what comes after', async () => {
  const ends = [
    [({ last }) => last().drop(4429, 'too many sign-ins'), { code: 4429, reason: 'too many sign-ins', by: 'server' }, '4429 too many sign-ins, by the server'],
    [({ last }) => last().push({ type: 'kicked', code: 409, message: 'signed in elsewhere' }), { code: 4409, reason: 'signed in elsewhere', by: 'server' }, '4409 signed in elsewhere, by the server'],
    [({ client }) => client.disconnect(), { code: 1000, reason: 'disconnected', by: 'client' }, '1000 disconnected, by this client'],
  ];
  for (const [end, cause, words] of ends) {
    const all = setUp();
    const { client, online } = all;
    await online();
    const room = client.subscribe('news');
    const waiting = [client.send('hi'), client.users(), room.ready, room.publish(1)].map(later);
    end(all);
    const after = [client.send('hi'), client.users(), client.request('x'), room.publish(1), room.history(), room.presence()];
    for (const promise of [...waiting, ...after]) {
      await assert.rejects(promise, (error) => {
        assert.equal(error.code, 'closed');
        assert.ok(error.message.includes(`(${words})`), error.message);
        assert.deepEqual(error.cause, cause);
        return true;
      });
    }
  }
});

test('offline says what the last connection died of', async () => {
  const { client, last, online } = setUp();
  await online();
  last().drop(4508, 'too slow');
  await assert.rejects(client.users(), { code: 'offline', message: 'not connected (4508 too slow, by the server)', cause: { code: 4508, reason: 'too slow', by: 'server' } });
});

test('what is no JSON is refused by itself, and holds up nothing behind it', async () => {
  const { client, last, online } = setUp();
  await online();
  const loop = {};
  loop.loop = loop;
  const room = client.subscribe('news');
  for (const promise of [client.send('x', { idempotencyKey: 1n }), client.request('x', loop), client.users({ limit: 1n }), room.publish(loop), room.publish(1n), room.publish(() => {})]) {
    await assert.rejects(promise, TypeError);
  }
  assert.equal(client.queued, 0);
  client.send('fine').catch(() => {});
  assert.equal(last().of('message').length, 1);
});

test('an infinite time is infinite', async () => {
  const { client, clock } = setUp({ messageLifetimeMs: Infinity });
  const sent = later(client.send('patient'));
  await clock.advance(10_000_000);
  assert.equal(await fate(sent), 'pending');
});

// ---- the same breath ----

test('disconnect() and connect() in one breath: what was sent between them goes out', async () => {
  const { client, last, signIn } = setUp();
  client.connect();
  client.disconnect();
  const sent = client.send('hi');
  client.connect();
  await signIn();
  last().push({ type: 'ack', id: last().of('message')[0].id, code: 200, data: { offset: 8 } });
  assert.deepEqual(await sent, { offset: 8 });
});

test('the constructor takes a position for the lobby', async () => {
  const { client, last, signIn } = setUp({ recover: { epoch: 'e1', offset: 5 } });
  const texts = [];
  client.on('message', ({ data }) => texts.push(data.text));
  client.connect();
  const missed = [6, 7].map((offset) => ({ type: 'message', channel: 'lobby', offset, text: `m${offset}` }));
  await signIn({ channel: 'lobby', epoch: 'e1', offset: 7, recovered: true, publications: missed });
  assert.deepEqual(last().of('auth')[0].data.recover, { epoch: 'e1', offset: 5 });
  assert.deepEqual(texts, ['m6', 'm7']);
  assert.throws(() => new Uringcast('ws://h/ws', { token: 't', recover: { offset: 5 } }), TypeError);
});
