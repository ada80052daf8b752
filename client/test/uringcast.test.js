// The client's rules, one test each, against a fake socket and a fake clock. Run: node --test client/test/*.test.js

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isFinal } from '../uringcast.js';
import { fate, later, setUp, settle, USER } from './fakes.js';

const names = (states) => states.map((event) => event.state);

test('signs in: idle, connecting, authenticating, online', async () => {
  const { client, states, sockets, signIn } = setUp();
  assert.equal(client.state, 'idle');
  client.connect();
  await signIn();
  assert.deepEqual(names(states), ['connecting', 'authenticating', 'online']);
  const [auth] = sockets[0].of('auth');
  assert.equal(auth.data.token, 'secret');
  assert.equal(auth.data.ping, true);
  assert.equal('recover' in auth.data, false);
  assert.deepEqual(sockets[0].protocols, ['uringcast.v1']);
  assert.deepEqual(client.user, USER);
});

test('connect() while connecting or online opens no second socket', async () => {
  const { client, sockets, online } = setUp();
  client.connect();
  client.connect();
  await settle();
  assert.equal(sockets.length, 1);
  await online();
  client.connect();
  await settle();
  assert.equal(sockets.length, 1);
});

test('the table of close codes', () => {
  for (const code of [1000, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4408, 4409, 4429, 4499]) assert.equal(isFinal(code), true, String(code));
  for (const code of [1001, 1005, 1006, 1011, 1012, 4500, 4503, 4504, 4508, 4511, 4599]) assert.equal(isFinal(code), false, String(code));
});

for (const code of [1002, 1003, 1007, 1009, 4400, 4403, 4408, 4409, 4429]) {
  test(`close ${code} is final`, async () => {
    const { client, clock, sockets, states, last, online } = setUp();
    await online();
    last().drop(code, 'why');
    assert.equal(client.state, 'closed');
    assert.deepEqual(client.ended, { code, reason: 'why', by: 'server' });
    assert.equal(states.at(-1).code, code);
    assert.equal(clock.pending, 0, 'no stray timer');
    await clock.advance(3_600_000);
    assert.equal(sockets.length, 1);
  });
}

for (const code of [1001, 1006, 1011, 4500, 4503, 4504, 4508, 4511]) {
  test(`close ${code} is temporary`, async () => {
    const { client, clock, sockets, last, signIn, online } = setUp();
    await online();
    last().drop(code);
    assert.equal(client.state, 'waiting');
    await clock.advance(500);
    assert.equal(sockets.length, 2);
    await signIn();
    assert.equal(client.state, 'online');
  });
}

test('fault 1 of the old class: nothing reconnects after disconnect()', async () => {
  const { client, clock, sockets, last, online } = setUp();
  await online();
  client.disconnect();
  assert.equal(client.state, 'closed');
  assert.deepEqual(client.ended, { code: 1000, reason: 'disconnected', by: 'client' });
  assert.equal(last().closedWith, 1000);
  last().finishClose(1006); // however the close ends
  assert.equal(clock.pending, 0);
  await clock.advance(3_600_000);
  assert.equal(sockets.length, 1);
});

test('disconnect() while waiting stops the timer that would revive it', async () => {
  const { client, clock, sockets, last, online } = setUp();
  await online();
  last().drop(1006);
  assert.equal(client.state, 'waiting');
  client.disconnect();
  assert.equal(clock.pending, 0);
  await clock.advance(3_600_000);
  assert.equal(sockets.length, 1);
  assert.equal(client.state, 'closed');
});

test('disconnect() while the token is being fetched opens no socket', async () => {
  let give;
  const { client, clock, sockets } = setUp({ token: () => new Promise((resolve) => (give = resolve)) });
  client.connect();
  client.disconnect();
  give('late');
  await clock.advance(3_600_000);
  assert.equal(sockets.length, 0);
  assert.equal(client.state, 'closed');
});

test('disconnect() while connecting: a handshake that succeeds late signs nobody in', async () => {
  const { client, sockets } = setUp();
  client.connect();
  await settle();
  client.disconnect();
  sockets[0].open();
  assert.deepEqual(sockets[0].sent, []);
  assert.equal(client.state, 'closed');
});

test('disconnect() from a listener of any state holds', async () => {
  for (const at of ['connecting', 'authenticating', 'online', 'waiting']) {
    const { client, clock, sockets, states, signIn } = setUp();
    client.on('state', ({ state }) => state === at && client.disconnect());
    client.connect();
    await settle();
    if (sockets.length) await signIn();
    if (at === 'waiting') sockets[0].drop(1006);
    await clock.advance(3_600_000);
    assert.equal(client.state, 'closed', at);
    assert.equal(names(states).at(-1), 'closed', at);
    assert.ok(sockets.length <= 1, at);
    assert.equal(clock.pending, 0, at);
  }
});

test('a kick is final, even if the Close behind it is lost', async () => {
  const { client, clock, sockets, last, online } = setUp();
  const kicks = [];
  client.on('kicked', (envelope) => kicks.push(envelope.message));
  await online();
  const socket = last();
  socket.push({ type: 'kicked', code: 409, message: 'signed in elsewhere' });
  socket.drop(1006);
  assert.equal(client.state, 'closed');
  assert.deepEqual(client.ended, { code: 4409, reason: 'signed in elsewhere', by: 'server' });
  assert.deepEqual(kicks, ['signed in elsewhere']);
  await clock.advance(3_600_000);
  assert.equal(sockets.length, 1);
});

test('connect() after the end starts anew', async () => {
  const { client, sockets, last, signIn, online } = setUp();
  await online();
  last().push({ type: 'kicked', code: 409 });
  client.connect();
  await signIn();
  assert.equal(client.state, 'online');
  assert.equal(client.ended, null);
  assert.equal(sockets.length, 2);
});

test('fault 2 of the old class: what was queued goes out only after auth_success, once, in order', async () => {
  const { client, last, clock, online, signIn } = setUp();
  await online();
  last().drop(1006);
  const sends = [client.send('one'), client.send('two')];
  assert.equal(client.queued, 2);
  await clock.advance(500);
  last().open();
  assert.deepEqual(last().sent.map((envelope) => envelope.type), ['auth']);
  last().push({ type: 'system', code: 200 });
  assert.deepEqual(last().of('message'), []);
  await signIn();
  const messages = last().of('message');
  assert.deepEqual(messages.map((envelope) => envelope.data.text), ['one', 'two']);
  messages.forEach((envelope, index) => last().push({ type: 'ack', id: envelope.id, code: 200, data: { channel: 'lobby', offset: 8 + index } }));
  assert.deepEqual(await Promise.all(sends), [{ channel: 'lobby', offset: 8 }, { channel: 'lobby', offset: 9 }]);
  assert.equal(client.queued, 0);
  last().drop(1006);
  await clock.advance(1_000);
  await signIn();
  assert.deepEqual(last().of('message'), [], 'what was acknowledged is not sent again');
});

test('send() while the sign-in is under way waits too, though the socket is open', async () => {
  const { client, last, signIn } = setUp();
  client.connect();
  await settle();
  last().open();
  assert.equal(client.state, 'authenticating');
  client.send('early').catch(() => {});
  assert.deepEqual(last().sent.map((envelope) => envelope.type), ['auth']);
  await signIn();
  assert.equal(last().of('message').length, 1);
});

test('what a listener sends on coming online queues up behind what waited', async () => {
  const { client, last, signIn } = setUp();
  client.on('state', ({ state }) => state === 'online' && client.send('second').catch(() => {}));
  client.on('auth_success', () => client.send('first after').catch(() => {}));
  client.send('first').catch(() => {});
  client.connect();
  await signIn();
  assert.deepEqual(last().of('message').map((envelope) => envelope.data.text), ['first', 'first after', 'second']);
});

test('messages may be queued before the first connect()', async () => {
  const { client, last, signIn } = setUp();
  const sent = client.send('early');
  client.connect();
  await signIn();
  const [message] = last().of('message');
  last().push({ type: 'ack', id: message.id, code: 200, data: { offset: 1 } });
  assert.deepEqual(await sent, { offset: 1 });
});

test('an unacknowledged message is repeated after a reconnect under the same key, before younger ones', async () => {
  const { client, clock, last, online, signIn } = setUp();
  await online();
  const first = client.send('one');
  const [before] = last().of('message');
  assert.match(before.data.idempotency_key, /^[0-9a-f]{32}$/);
  last().drop(1006);
  client.send('two').catch(() => {});
  await clock.advance(500);
  await signIn();
  const after = last().of('message');
  assert.deepEqual(after.map((envelope) => envelope.data.text), ['one', 'two']);
  assert.equal(after[0].data.idempotency_key, before.data.idempotency_key);
  assert.notEqual(after[1].data.idempotency_key, before.data.idempotency_key);
  last().push({ type: 'ack', id: after[0].id, code: 200, data: { offset: 8, duplicate: true } });
  assert.deepEqual(await first, { offset: 8, duplicate: true });
});

test('resend: false gives an unacknowledged message back as unknown, and still sends what never left', async () => {
  const { client, clock, last, online, signIn } = setUp({ resend: false });
  await online();
  const sent = client.send('one');
  last().drop(1006);
  client.send('two').catch(() => {});
  assert.deepEqual(await fate(sent), { code: 'connection_lost', outcome: 'unknown' });
  await clock.advance(500);
  await signIn();
  assert.deepEqual(last().of('message').map((envelope) => envelope.data.text), ['two']);
});

test('the queue is bounded: one more is refused at once, and an answer makes room', async () => {
  const { client, last, signIn } = setUp({ queueLimit: 2 });
  const first = client.send('1');
  client.send('2').catch(() => {});
  assert.deepEqual(await fate(client.send('3')), { code: 'queue_full', outcome: 'not_sent' });
  client.connect();
  await signIn();
  const [message] = last().of('message');
  last().push({ type: 'ack', id: message.id, code: 200, data: {} });
  await first;
  assert.equal(await fate(client.send('4')), 'pending');
});

test('what is still queued at the end is refused, and so is what comes after', async () => {
  const { client, clock, last, online } = setUp();
  const early = client.send('early');
  await online();
  const [message] = last().of('message');
  last().push({ type: 'ack', id: message.id, code: 200 });
  assert.deepEqual(await fate(early), { value: {} });
  last().drop(1006);
  const queued = client.send('queued');
  client.disconnect();
  assert.equal(clock.pending, 0, 'its deadline has gone with it');
  assert.deepEqual(await fate(queued), { code: 'closed', outcome: 'not_sent' });
  assert.deepEqual(await fate(client.send('later')), { code: 'closed', outcome: 'not_sent' });
});

test('a message too old for its idempotency key is given up', async () => {
  const { client, clock } = setUp({ messageLifetimeMs: 60_000 });
  const sent = client.send('old');
  await clock.advance(59_999);
  assert.equal(await fate(sent), 'pending');
  await clock.advance(1);
  assert.deepEqual(await fate(sent), { code: 'expired', outcome: 'not_sent' });
  assert.equal(client.queued, 0);
});

test('answers find their requests by id, in any order', async () => {
  const { client, last, online } = setUp();
  await online();
  const sends = [client.send('a'), client.send('b'), client.request('users')].map(later);
  const [a, b] = last().of('message');
  const [users] = last().of('users');
  last().push({ type: 'users', id: users.id, code: 200, data: { count: 1, members: [] } });
  last().push({ type: 'error', id: b.id, code: 429, message: 'slow down' });
  last().push({ type: 'ack', id: a.id, code: 200, data: { offset: 9 } });
  assert.deepEqual(await fate(sends[0]), { value: { offset: 9 } });
  assert.deepEqual(await fate(sends[1]), { code: 429, outcome: 'refused' });
  assert.deepEqual(await fate(sends[2]), { value: { count: 1, members: [] } });
});

test('an error 504 leaves the outcome open', async () => {
  const { client, last, online } = setUp();
  await online();
  const sent = client.send('a', { idempotencyKey: 'k' });
  const [message] = last().of('message');
  assert.equal(message.data.idempotency_key, 'k');
  last().push({ type: 'error', id: message.id, code: 504, message: 'outcome unknown' });
  assert.deepEqual(await fate(sent), { code: 504, outcome: 'unknown' });
});

test('a request without an answer ends at its deadline', async () => {
  const { client, clock, last, online } = setUp({ requestTimeoutMs: 3_000 });
  await online();
  const refresh = later(client.request('refresh', { token: 'x' }));
  const users = later(client.users());
  await clock.advance(2_999);
  assert.equal(await fate(refresh), 'pending');
  await clock.advance(1);
  assert.deepEqual(await fate(refresh), { code: 'timeout', outcome: 'unknown' });
  assert.deepEqual(await fate(users), { code: 'timeout', outcome: 'unknown' });
  last().push({ type: 'users', id: last().of('users')[0].id, code: 200, data: {} }); // late: nobody is hurt
  assert.equal(client.state, 'online');
});

test('a request that may change something is never queued and never repeated', async () => {
  const { client, clock, last, online, signIn } = setUp();
  assert.deepEqual(await fate(client.request('refresh')), { code: 'offline', outcome: 'not_sent' });
  assert.deepEqual(await fate(client.users()), { code: 'offline', outcome: 'not_sent' });
  await online();
  const refresh = client.request('refresh', { token: 'x' });
  last().drop(1006, 'gone');
  assert.deepEqual(await fate(refresh), { code: 'connection_lost', outcome: 'unknown' });
  await assert.rejects(refresh, { message: 'the connection was lost (1006 gone)', cause: { code: 1006, reason: 'gone', by: 'network' } });
  await clock.advance(500);
  await signIn();
  assert.deepEqual(last().of('refresh'), []);
});

test('a question that changes nothing is asked again after a reconnect, within its time-out', async () => {
  const { client, clock, last, online, signIn } = setUp({ heartbeatIntervalMs: 60_000 });
  await online();
  const answered = client.users();
  last().drop(1006);
  await clock.advance(500);
  await signIn();
  const [{ id }, ...more] = last().of('users');
  assert.deepEqual(more, []);
  const late = later(client.users());
  last().push({ type: 'users', id, code: 200, data: { count: 1, members: [] } });
  assert.deepEqual(await answered, { count: 1, members: [] });
  last().drop(1001);
  await clock.advance(9_999);
  assert.equal(await fate(late), 'pending');
  await clock.advance(1);
  assert.deepEqual(await fate(late), { code: 'timeout', outcome: 'unknown' });
});

test('userPages() follows the cursor to the end', async () => {
  const { client, last, online } = setUp();
  await online();
  const pages = [];
  const walk = (async () => {
    for await (const page of client.userPages({ limit: 2 })) pages.push(page.members);
  })();
  const answers = [{ count: 3, members: ['a', 'b'], cursor: 'x' }, { count: 3, members: ['c'] }];
  for (const [index, data] of answers.entries()) {
    await settle();
    const request = last().of('users')[index];
    assert.deepEqual(request.data, index ? { cursor: 'x', limit: 2 } : { limit: 2 });
    last().push({ type: 'users', id: request.id, code: 200, data });
  }
  await walk;
  assert.deepEqual(pages, [['a', 'b'], ['c']]);
});

test('userPages() ends when the server repeats a cursor', async () => {
  const { client, last, online } = setUp();
  await online();
  let pages = 0;
  const walk = (async () => {
    for await (const page of client.userPages()) pages += page.members.length + 1;
  })();
  for (let index = 0; index < 2; index += 1) {
    await settle();
    last().push({ type: 'users', id: last().of('users')[index].id, code: 200, data: { count: 0, members: [], cursor: 'x' } });
  }
  await walk;
  assert.equal(pages, 2);
});

test('the backoff doubles up to its maximum', async () => {
  const { client, clock, sockets, states, last } = setUp({ backoffBaseMs: 500, backoffMaxMs: 4_000 });
  client.connect();
  await settle();
  const waits = [];
  for (let round = 0; round < 6; round += 1) {
    last().drop(1006);
    waits.push(states.at(-1).retryInMs);
    assert.equal(states.at(-1).attempt, round + 1);
    await clock.advance(states.at(-1).retryInMs - 1);
    assert.equal(sockets.length, round + 1, 'not a moment earlier');
    await clock.advance(1);
    assert.equal(sockets.length, round + 2);
  }
  assert.deepEqual(waits, [500, 1_000, 2_000, 4_000, 4_000, 4_000]);
});

test('the jitter is full: the wait lies anywhere between nothing and the bound', async () => {
  for (const part of [0, 0.25, 0.999]) {
    const { client, states, last } = setUp({ random: () => part, backoffBaseMs: 1_000 });
    client.connect();
    await settle();
    last().drop(1006);
    assert.equal(states.at(-1).retryInMs, part * 1_000);
  }
});

test('only a connection that stayed online starts the backoff afresh', async () => {
  const { clock, states, last, online, signIn } = setUp({ stableMs: 10_000, heartbeatIntervalMs: 60_000 });
  await online();
  last().drop(1011);
  assert.equal(states.at(-1).retryInMs, 500);
  await clock.advance(500);
  await signIn();
  last().drop(1011); // accepted and thrown out again
  assert.equal(states.at(-1).retryInMs, 1_000);
  await clock.advance(1_000);
  await signIn();
  await clock.advance(10_000);
  last().drop(1011);
  assert.equal(states.at(-1).retryInMs, 500);
});

test('maxAttempts ends it', async () => {
  const { client, clock, sockets, last } = setUp({ maxAttempts: 2 });
  client.connect();
  for (let round = 0; round < 3; round += 1) {
    await settle();
    last().drop(1006);
    await clock.advance(30_000);
  }
  assert.equal(client.state, 'closed');
  assert.equal(sockets.length, 3);
  assert.equal(client.ended.code, 1006);
});

test('connect() while waiting tries at once, and only once', async () => {
  const { client, clock, sockets, last, online } = setUp();
  await online();
  last().drop(1006);
  client.connect();
  await settle();
  assert.equal(sockets.length, 2);
  await clock.advance(5_000);
  assert.equal(sockets.length, 2);
});

test('draining: leaves at the time the server gave, and comes back at once', async () => {
  const { clock, sockets, states, last, online } = setUp();
  await online();
  last().push({ type: 'draining', data: { reconnect_in_ms: 3_000 } });
  await clock.advance(2_999);
  assert.equal(sockets.length, 1);
  await clock.advance(1);
  assert.equal(sockets[0].closedWith, 1000);
  assert.equal(sockets.length, 2);
  assert.equal(states.find((event) => event.state === 'waiting').retryInMs, 0);
});

test('draining: a server that closes earlier is met again at the time it gave', async () => {
  const { clock, sockets, states, last, online } = setUp();
  await online();
  last().push({ type: 'draining', data: { reconnect_in_ms: 3_000 } });
  await clock.advance(1_000);
  last().drop(4503);
  assert.equal(states.at(-1).retryInMs, 2_000);
  await clock.advance(2_000);
  assert.equal(sockets.length, 2);
  last().drop(1006); // from here on the ordinary backoff
  assert.equal(states.at(-1).retryInMs, 1_000);
});

test('draining without a usable time changes nothing', async () => {
  const { client, clock, last, online } = setUp();
  await online();
  last().push({ type: 'draining', data: { reconnect_in_ms: 'soon' } });
  last().push({ type: 'draining' });
  await clock.advance(1_000);
  assert.equal(client.state, 'online');
});

test('heartbeat: asked for after a silence, answered, asked for again', async () => {
  const { client, clock, last, online } = setUp({ heartbeatIntervalMs: 20_000, heartbeatTimeoutMs: 5_000 });
  await online();
  for (let round = 1; round <= 3; round += 1) {
    await clock.advance(20_000);
    assert.equal(last().of('heartbeat').length, round);
    last().push({ type: 'heartbeat', code: 200, message: 'pong', timestamp: 1 });
    await clock.advance(5_000);
    assert.equal(client.state, 'online');
    last().push({ type: 'user_online', data: {} }); // restarts the silence
  }
});

test('heartbeat: what the server sends by itself is a sign of life too', async () => {
  const { clock, last, online } = setUp({ heartbeatIntervalMs: 20_000 });
  await online();
  for (let round = 0; round < 10; round += 1) {
    await clock.advance(15_000);
    last().push({ type: 'user_online', data: {} });
  }
  assert.equal(last().of('heartbeat').length, 0);
});

test('heartbeat: no answer by the deadline means the connection is dead, though its close never comes', async () => {
  const { client, clock, sockets, states, last, online } = setUp({ heartbeatIntervalMs: 20_000, heartbeatTimeoutMs: 5_000 });
  await online();
  await clock.advance(24_999);
  assert.equal(client.state, 'online');
  await clock.advance(1);
  assert.equal(client.state, 'waiting');
  assert.equal(states.at(-1).code, 4504);
  assert.equal(last().closedWith, 1000);
  await clock.advance(500);
  assert.equal(sockets.length, 2);
  sockets[0].finishClose(1006); // at last: it is not ours any more
  sockets[0].push({ type: 'kicked' });
  assert.equal(client.state, 'connecting');
});

test('a ping is answered and told to nobody', async () => {
  const { client, last, online } = setUp();
  await online();
  const seen = [];
  client.on('push', (envelope) => seen.push(envelope));
  client.on('unknown', (envelope) => seen.push(envelope));
  last().push({ type: 'ping' });
  last().push({ type: 'heartbeat', code: 200, message: 'pong' });
  assert.deepEqual(last().of('heartbeat'), [{ type: 'heartbeat' }]);
  assert.deepEqual(seen, []);
});

test('every phase of connecting has a deadline', async () => {
  for (const phase of ['token', 'handshake', 'sign-in']) {
    const { client, clock, sockets } = setUp({ connectTimeoutMs: 4_000, token: phase === 'token' ? () => new Promise(() => {}) : 'secret' });
    client.connect();
    await settle();
    if (phase === 'sign-in') sockets[0].open();
    await clock.advance(3_999);
    assert.notEqual(client.state, 'waiting', phase);
    await clock.advance(1);
    assert.equal(client.state, 'waiting', phase);
  }
});

test('the token function is called anew at each reconnect', async () => {
  let calls = 0;
  const { clock, sockets, online, last, signIn } = setUp({ token: async () => `token ${++calls}` });
  await online();
  last().drop(1006);
  await clock.advance(500);
  await signIn();
  assert.deepEqual(sockets.map((socket) => socket.of('auth')[0].data.token), ['token 1', 'token 2']);
});

test('an error in answer to the sign-in is judged by its code', async () => {
  for (const [code, state] of [[400, 'closed'], [403, 'closed'], [503, 'waiting'], [500, 'waiting']]) {
    const { client, last } = setUp();
    client.connect();
    await settle();
    last().open();
    last().push({ type: 'error', code, message: 'no' });
    assert.equal(client.state, state, String(code));
  }
});

test('a URL that is none ends it', async () => {
  const { client, clock } = setUp({ env: { WebSocket: class { constructor() { throw new SyntaxError('bad URL'); } } } });
  client.connect();
  await settle();
  assert.equal(client.state, 'closed');
  assert.equal(clock.pending, 0);
});

test('the position follows sign-in, messages and gaps, and only grows within an epoch', async () => {
  const { client, last, online } = setUp();
  await online();
  assert.deepEqual(client.position(), { epoch: 'e1', offset: 7 });
  const message = (offset) => last().push({ type: 'message', code: 200, data: { channel: 'lobby', offset, text: 'x', sender: USER } });
  message(8);
  message(9);
  message(8);
  assert.equal(client.position().offset, 9);
  last().push({ type: 'gap', data: { channel: 'lobby', epoch: 'e1', from: 10, to: 20 } });
  assert.deepEqual(client.position(), { epoch: 'e1', offset: 20 });
  last().push({ type: 'gap', data: { channel: 'lobby', epoch: 'e2', from: 1, to: 3 } });
  assert.deepEqual(client.position(), { epoch: 'e2', offset: 3 });
  assert.equal(client.position('news'), null);
});

test('the state event says how much went by while away', async () => {
  const { clock, states, last, online, signIn } = setUp();
  await online();
  assert.equal(states.at(-1).missed, 0);
  last().drop(1006);
  await clock.advance(500);
  await signIn({ channel: 'lobby', epoch: 'e1', offset: 12 });
  assert.equal(states.at(-1).missed, 5);
  last().drop(1006);
  await clock.advance(1_000);
  await signIn({ channel: 'lobby', epoch: 'e2', offset: 0 });
  assert.equal(states.at(-1).missed, null);
});

test('after a reconnect the lobby asks for what was missed and hands it out in order, before anything newer', async () => {
  const { client, clock, states, last, online, signIn } = setUp();
  await online();
  assert.equal('recover' in last().of('auth')[0].data, false);
  last().drop(1006);
  await clock.advance(500);
  const texts = [];
  client.on('message', ({ data }) => texts.push(data.text));
  await signIn({
    channel: 'lobby', epoch: 'e1', offset: 9, recovered: true,
    publications: [8, 9].map((offset) => ({ type: 'message', channel: 'lobby', offset, text: `m${offset}` })),
  });
  assert.deepEqual(last().of('auth')[0].data.recover, { epoch: 'e1', offset: 7 });
  last().push({ type: 'message', code: 200, data: { channel: 'lobby', offset: 10, text: 'm10' } });
  assert.deepEqual(texts, ['m8', 'm9', 'm10']);
  assert.deepEqual(client.position(), { epoch: 'e1', offset: 10 });
  assert.equal(states.at(-1).missed, 0);
});

test('recover: false asks for nothing that was missed', async () => {
  const { clock, last, online, signIn } = setUp({ recover: false });
  await online();
  last().drop(1006);
  await clock.advance(500);
  await signIn();
  assert.equal('recover' in last().of('auth')[0].data, false);
});

test('unknown types are surfaced, unknown fields ignored, nonsense dropped', async () => {
  const { client, last, online } = setUp();
  await online();
  const unknown = [];
  const pushes = [];
  client.on('unknown', (envelope) => unknown.push(envelope.type));
  client.on('push', (envelope) => pushes.push(envelope.type));
  last().push({ type: 'fireworks', colour: 'red' });
  last().push({ type: 'state' }); // must not pass for one of our own events
  last().push({ type: 'message', novelty: 1, data: { channel: 'lobby', offset: 8, text: 'x', novelty: 2 } });
  for (const nonsense of ['{', 'null', '[]', '7', '{"type":1}', '']) last().push(nonsense);
  assert.deepEqual(unknown, ['fireworks', 'state']);
  assert.deepEqual(pushes, ['fireworks', 'state', 'message']);
  assert.equal(client.state, 'online');
});

test('on() gives back how to stop; a listener that throws stops nothing', async (t) => {
  t.mock.method(console, 'error', () => {});
  const { client, last, online } = setUp();
  let heard = 0;
  client.on('message', () => { throw new Error('mine'); });
  const stop = client.on('message', () => (heard += 1));
  await online();
  last().push({ type: 'message', data: {} });
  stop();
  last().push({ type: 'message', data: {} });
  assert.equal(heard, 1);
  assert.equal(console.error.mock.callCount(), 2);
});

test('a text that is none is refused here', async () => {
  const { client } = setUp();
  await assert.rejects(client.send(5), TypeError);
});
