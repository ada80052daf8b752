// The rules about channels, one test each, against a fake socket and a fake clock. Run: node --test client/test/*.test.js

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fate, later, setUp, settle } from './fakes.js';

const ROOM = 'chat:room';
const EVENTS = ['publication', 'message', 'gap', 'join', 'leave', 'presence_digest', 'subscribed', 'unsubscribed', 'error'];

/** What a subscription told, each as its type and what matters of it. */
function record(subscription) {
  const told = [];
  const gist = {
    publication: ({ data }) => data.offset,
    message: ({ data }) => data.offset,
    gap: ({ data }) => [data.from, data.to],
    unsubscribed: ({ code }) => code,
    error: ({ code }) => code,
    subscribed: ({ data }) => data.recovered,
  };
  for (const type of EVENTS) subscription.on(type, (event) => told.push([type, gist[type]?.(event)]));
  return told;
}

const element = (offset, channel = ROOM) => ({ type: 'publication', channel, offset, data: `d${offset}`, timestamp: 1 });
const live = (offset, channel = ROOM) => ({ type: 'publication', data: { channel, offset, data: `d${offset}`, timestamp: 1 } });
const at = (offset, more = {}, channel = ROOM) => ({ channel, epoch: 'r1', offset, overflow: 'disconnect', ...more });

/** Online, and subscribed to the room at offset 5. */
async function inRoom(options, subscribeOptions) {
  const all = setUp(options);
  await all.online();
  const room = all.client.subscribe(ROOM, subscribeOptions);
  await settle();
  const [{ id }] = all.last().of('subscribe');
  all.last().push({ type: 'subscribed', id, code: 200, data: at(5) });
  assert.equal(room.state, 'subscribed');
  const back = async () => {
    all.last().drop(1006);
    await all.clock.advance(all.states.at(-1).retryInMs);
    await all.signIn();
  };
  return { ...all, room, told: record(room), back };
}

test('subscribes at once when online, and tells what comes', async () => {
  const { client, last, online } = setUp();
  await online();
  const room = client.subscribe(ROOM);
  const told = record(room);
  assert.equal(room.channel, ROOM);
  assert.equal(room.state, 'subscribing');
  const [{ id, data }] = last().of('subscribe');
  assert.deepEqual(data, { channel: ROOM });
  last().push({ type: 'subscribed', id, code: 200, data: at(5) });
  assert.deepEqual(await room.ready, at(5));
  last().push(live(6));
  last().push({ type: 'message', code: 200, data: { channel: ROOM, offset: 7, text: 'x' } });
  for (const type of ['join', 'leave', 'presence_digest']) last().push({ type, data: { channel: ROOM } });
  last().push(live(1, 'chat:other'));
  assert.deepEqual(told, [
    ['subscribed', undefined], ['publication', 6], ['message', 7], ['join', undefined], ['leave', undefined], ['presence_digest', undefined],
  ]);
  assert.deepEqual(room.position, { epoch: 'r1', offset: 7 });
  assert.deepEqual(client.position(ROOM), room.position);
});

test('what was subscribed before the sign-in goes with it: one round trip, also the first time', async () => {
  const { client, last, signIn } = setUp();
  const rooms = ['chat:a', 'chat:b'].map((name) => client.subscribe(name, { token: `for ${name}` }));
  client.connect();
  await signIn();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: 'chat:a', token: 'for chat:a' }, { channel: 'chat:b', token: 'for chat:b' }]);
  assert.deepEqual(last().of('subscribe'), []);
  last().push({ type: 'error', code: 403, message: 'no', data: { channel: 'chat:b' } }); // in any order, and without an id
  last().push({ type: 'subscribed', code: 200, data: at(1, {}, 'chat:a') });
  assert.deepEqual(await fate(rooms[0].ready), { value: at(1, {}, 'chat:a') });
  assert.deepEqual(await fate(rooms[1].ready), { code: 403, outcome: 'refused' });
  assert.deepEqual(rooms.map(({ state }) => state), ['subscribed', 'ended']);
});

test('after a reconnect the sign-in asks for what was missed, and it is told in order before anything newer', async () => {
  const { last, told, room, back } = await inRoom();
  last().push(live(6));
  await back();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: ROOM, recover: { epoch: 'r1', offset: 6 } }]);
  assert.equal(room.state, 'subscribing');
  last().push({ type: 'subscribed', code: 200, data: at(8, { recovered: true, publications: [element(7), element(8)] }) });
  last().push(live(9));
  assert.deepEqual(told, [['publication', 6], ['subscribed', true], ['publication', 7], ['publication', 8], ['publication', 9]]);
  assert.equal(room.position.offset, 9);
  assert.deepEqual(last().of('subscribe'), []);
});

test('what is recovered comes through the same events, in the same shape', async () => {
  const { client, last, room, back } = await inRoom();
  const heard = [];
  room.on('publication', ({ type, data }) => heard.push({ type, data }));
  client.on('publication', ({ type, data }) => heard.push({ type, data }));
  await back();
  last().push({ type: 'subscribed', code: 200, data: at(6, { recovered: true, publications: [element(6)] }) });
  assert.deepEqual(heard, [live(6), live(6)]);
});

test('recover: false comes back without asking for anything missed', async () => {
  const { last, told, room, back } = await inRoom({}, { recover: false });
  await back();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: ROOM }]);
  last().push({ type: 'subscribed', code: 200, data: at(9) });
  assert.deepEqual(told, [['subscribed', undefined]]);
  assert.equal(room.position.offset, 9);
});

test('an offset at or below the position is told no second time', async () => {
  const { last, told } = await inRoom();
  for (const offset of [5, 6, 6, 4, 7]) last().push(live(offset));
  assert.deepEqual(told, [['publication', 6], ['publication', 7]]);
});

test('the lobby too: no offset twice', async () => {
  const { client, last, online } = setUp();
  await online();
  const offsets = [];
  client.on('message', ({ data }) => offsets.push(data.offset));
  for (const offset of [7, 8, 8, 9]) last().push({ type: 'message', code: 200, data: { channel: 'lobby', offset, text: 'x' } });
  assert.deepEqual(offsets, [8, 9]);
});

test('not recovered: said so, then the gap, and the position is behind it', async () => {
  const { last, told, room, back } = await inRoom();
  await back();
  last().push({ type: 'subscribed', code: 200, data: { ...at(3, { recovered: false, publications: [] }), epoch: 'r2' } });
  last().push({ type: 'gap', data: { channel: ROOM, epoch: 'r2', from: 1, to: 3, reason: 'history_lost' } });
  last().push(live(4));
  assert.deepEqual(told, [['subscribed', false], ['gap', [1, 3]], ['publication', 4]]);
  assert.deepEqual(room.position, { epoch: 'r2', offset: 4 });
});

test('a gap moves the position past it, and brings a new epoch', async () => {
  const { last, room, told } = await inRoom();
  last().push({ type: 'gap', data: { channel: ROOM, epoch: 'r1', from: 6, to: 20, reason: 'slow_consumer' } });
  last().push(live(20));
  assert.deepEqual(room.position, { epoch: 'r1', offset: 20 });
  last().push({ type: 'gap', data: { channel: ROOM, epoch: 'r2', from: 1, to: 2, reason: 'engine' } });
  last().push(live(3));
  assert.deepEqual(room.position, { epoch: 'r2', offset: 3 });
  assert.deepEqual(told, [['gap', [6, 20]], ['gap', [1, 2]], ['publication', 3]]);
});

test('no more than 128 go with the sign-in; the rest is asked for right after it', async () => {
  const { client, last, signIn } = setUp();
  for (let index = 0; index < 130; index += 1) client.subscribe(`chat:${index}`);
  client.connect();
  await signIn();
  assert.equal(last().of('auth')[0].data.channels.length, 128);
  assert.deepEqual(last().of('subscribe').map(({ data }) => data.channel), ['chat:128', 'chat:129']);
});

test('a sign-in does not grow beyond what a server takes', async () => {
  const { client, last, signIn } = setUp();
  for (let index = 0; index < 4; index += 1) client.subscribe(`chat:${index}`, { token: 'x'.repeat(100_000) });
  client.connect();
  await signIn();
  assert.equal(last().of('auth')[0].data.channels.length, 2);
  assert.equal(last().of('subscribe').length, 2);
});

for (const code of [403, 404, 409, 429]) {
  test(`error ${code} ends it: by ready the first time, by an event later`, async () => {
    const first = setUp();
    await first.online();
    const room = first.client.subscribe(ROOM);
    const [{ id }] = first.last().of('subscribe');
    first.last().push({ type: 'error', id, code, message: 'no', data: { channel: ROOM } });
    assert.deepEqual(await fate(room.ready), { code, outcome: 'refused' });
    assert.equal(room.state, 'ended');

    const { last, told, room: again, back, client } = await inRoom();
    const stray = [];
    client.on('error', (envelope) => stray.push(envelope));
    await back();
    last().push({ type: 'error', code, message: 'no', data: { channel: ROOM } });
    assert.deepEqual(told, [['error', code], ['unsubscribed', code]]);
    assert.equal(again.state, 'ended');
    assert.equal(again.position, null);
    assert.deepEqual(stray, [], 'it was an answer');
    await back();
    assert.equal('channels' in last().of('auth')[0].data, false);
  });
}

test('what the server cannot do now is tried again, later each time', async () => {
  const { client, clock, last, online } = setUp();
  await online();
  const room = client.subscribe(ROOM);
  const told = record(room);
  for (const [round, wait] of [500, 1_000, 2_000].entries()) {
    const { id } = last().of('subscribe')[round];
    last().push({ type: 'error', id, code: 503, message: 'busy', data: { channel: ROOM } });
    assert.equal(room.state, 'subscribing');
    await clock.advance(wait - 1);
    assert.equal(last().of('subscribe').length, round + 1);
    await clock.advance(1);
    assert.equal(last().of('subscribe').length, round + 2);
  }
  last().push({ type: 'subscribed', id: last().of('subscribe')[3].id, code: 200, data: at(1) });
  assert.deepEqual(told, [['error', 503], ['error', 503], ['error', 503], ['subscribed', undefined]]);
  await room.ready;
});

for (const code of [401, 403]) {
  test(`unsubscribed ${code} by the server ends it for good`, async () => {
    const { last, told, room, back } = await inRoom();
    last().push({ type: 'unsubscribed', code, data: { channel: ROOM } });
    last().push(live(6));
    assert.deepEqual(told, [['unsubscribed', code]]);
    assert.equal(room.state, 'ended');
    await back();
    assert.equal('channels' in last().of('auth')[0].data, false);
  });
}

test('unsubscribe(): nothing more is told, and it does not come back', async () => {
  const { last, told, room, back } = await inRoom();
  room.unsubscribe();
  room.unsubscribe();
  const [{ id, data }, ...more] = last().of('unsubscribe');
  assert.deepEqual([data, more], [{ channel: ROOM }, []]);
  last().push(live(6));
  last().push({ type: 'unsubscribed', id, code: 200, data: { channel: ROOM } });
  assert.deepEqual(told, [['unsubscribed', 200]]);
  await back();
  assert.equal('channels' in last().of('auth')[0].data, false);
});

test('subscribing anew behind an unsubscribe: what still comes of the old one is not the new one\'s', async () => {
  const { client, last, room } = await inRoom();
  room.unsubscribe();
  const next = client.subscribe(ROOM);
  const told = record(next);
  last().push(live(6));
  last().push({ type: 'unsubscribed', id: last().of('unsubscribe')[0].id, code: 200, data: { channel: ROOM } });
  assert.deepEqual(last().of('subscribe')[1].data, { channel: ROOM }, 'what came before is not missed');
  last().push({ type: 'subscribed', id: last().of('subscribe')[1].id, code: 200, data: at(8) });
  last().push(live(9));
  assert.deepEqual(told, [['subscribed', undefined], ['publication', 9]]);
});

test('unsubscribe() while the sign-in that asks for it is under way', async () => {
  const { client, last, signIn } = setUp();
  const room = client.subscribe(ROOM);
  client.connect();
  await settle();
  last().open();
  room.unsubscribe();
  const next = client.subscribe(ROOM);
  assert.deepEqual(await fate(room.ready), { code: 'closed', outcome: 'not_sent' });
  await signIn();
  assert.deepEqual(last().sent.map(({ type }) => type), ['auth', 'unsubscribe', 'subscribe']);
  last().push({ type: 'error', code: 409, message: 'cancelled', data: { channel: ROOM } });
  last().push({ type: 'unsubscribed', id: last().of('unsubscribe')[0].id, code: 200, data: { channel: ROOM } });
  last().push({ type: 'subscribed', id: last().of('subscribe')[0].id, code: 200, data: at(1) });
  assert.equal(next.state, 'subscribed');
});

test('a listener that unsubscribes amid what is recovered hears no more', async () => {
  const { last, told, room, back } = await inRoom();
  room.on('publication', () => room.unsubscribe());
  await back();
  last().push({ type: 'subscribed', code: 200, data: at(8, { recovered: true, publications: [element(6), element(7), element(8)] }) });
  assert.deepEqual(told, [['subscribed', true], ['publication', 6], ['unsubscribed', 200]]);
});

test('a token function is asked anew for each connection, and told the channel', async () => {
  let calls = 0;
  const token = async ({ channel }) => `${channel} ${++calls}`;
  const { last, back } = await inRoom({}, { token });
  assert.equal(last().of('subscribe')[0].data.token, `${ROOM} 1`);
  await back();
  assert.equal(last().of('auth')[0].data.channels[0].token, `${ROOM} 2`);
});

test('a token that comes late holds up nobody: it is asked for when it is there', async () => {
  let give;
  const { client, last, signIn } = setUp();
  const room = client.subscribe(ROOM, { token: () => new Promise((resolve) => (give = resolve)) });
  client.connect();
  await signIn();
  assert.equal(client.state, 'online');
  assert.equal('channels' in last().of('auth')[0].data, false);
  give('late');
  await settle();
  assert.deepEqual(last().of('subscribe')[0].data, { channel: ROOM, token: 'late' });
  last().push({ type: 'subscribed', id: last().of('subscribe')[0].id, code: 200, data: at(1) });
  assert.equal(room.state, 'subscribed');
});

test('a token function that fails is tried again later, unless it says that is final', async () => {
  let calls = 0;
  const { client, clock, last, online } = setUp();
  await online();
  const room = client.subscribe(ROOM, {
    token: async () => {
      calls += 1;
      if (calls === 1) throw new Error('no network');
      return 'secret';
    },
  });
  const told = record(room);
  await settle();
  assert.deepEqual(told, [['error', 'no_token']]);
  await clock.advance(500);
  assert.equal(last().of('subscribe')[0].data.token, 'secret');
  const refused = client.subscribe('chat:b', { token: async () => { throw Object.assign(new Error('not you'), { final: true }); } });
  assert.deepEqual(await fate(refused.ready), { code: 'no_token', outcome: 'not_sent' });
  assert.equal(refused.state, 'ended');
});

test('publish() resolves with the acknowledgement, under a key of its own', async () => {
  const { last, room } = await inRoom();
  const published = room.publish({ price: 1 }, { key: 'AAPL' });
  const [{ id, data }] = last().of('publish');
  assert.match(data.idempotency_key, /^[0-9a-f]{32}$/);
  assert.deepEqual(data, { channel: ROOM, data: { price: 1 }, key: 'AAPL', idempotency_key: data.idempotency_key });
  last().push({ type: 'ack', id, code: 200, data: { channel: ROOM, epoch: 'r1', offset: 6 } });
  assert.deepEqual(await published, { channel: ROOM, epoch: 'r1', offset: 6 });
});

test('what is published offline waits for the subscription, in order, and is repeated as it was', async () => {
  const { client, clock, last, room, signIn } = await inRoom();
  const value = { n: 1 };
  later(room.publish(value, { idempotencyKey: 'k1' }));
  value.n = 99;
  last().drop(1006);
  later(room.publish(2, { idempotencyKey: 'k2' }));
  later(client.send('hello'));
  assert.equal(client.queued, 3);
  await clock.advance(500);
  await signIn();
  assert.deepEqual(last().sent.map(({ type }) => type), ['auth', 'message'], 'the lobby is there already');
  last().push({ type: 'subscribed', code: 200, data: at(5, { recovered: true, publications: [] }) });
  assert.deepEqual(last().of('publish').map(({ data }) => [data.data, data.idempotency_key]), [[{ n: 1 }, 'k1'], [2, 'k2']]);
  assert.deepEqual(last().of('message').length, 1);
});

test('publish() shares the bound with send(), and ends with the subscription', async () => {
  const { client, room } = await inRoom({ queueLimit: 2 });
  later(client.send('1'));
  later(room.publish(2));
  assert.deepEqual(await fate(room.publish(3)), { code: 'queue_full', outcome: 'not_sent' });
  room.unsubscribe();
  assert.deepEqual(await fate(room.publish(4)), { code: 'closed', outcome: 'not_sent' });
  await assert.rejects(client.subscribe('chat:b').publish(undefined), TypeError);
});

test('what waited for a subscription that is refused is for the server to refuse too', async () => {
  const { client, last, signIn } = setUp();
  const room = client.subscribe(ROOM);
  const published = later(room.publish(1));
  client.connect();
  await signIn();
  assert.deepEqual(last().of('publish'), []);
  last().push({ type: 'error', code: 404, message: 'no such namespace', data: { channel: ROOM } });
  last().push({ type: 'error', id: last().of('publish')[0].id, code: 403, message: 'not subscribed', data: { channel: ROOM } });
  assert.deepEqual(await fate(published), { code: 403, outcome: 'refused' });
});

test('history() and presence() ask now, or not at all', async () => {
  const { last, room } = await inRoom();
  const since = { epoch: 'r1', offset: 2 };
  const history = room.history({ since, limit: 10, reverse: true });
  const presence = room.presence({ cursor: 'c', limit: 5 });
  assert.deepEqual(last().of('history')[0].data, { channel: ROOM, since, limit: 10, reverse: true });
  assert.deepEqual(last().of('presence')[0].data, { channel: ROOM, cursor: 'c', limit: 5 });
  last().push({ type: 'history', id: last().of('history')[0].id, code: 200, data: at(5, { publications: [element(3)] }) });
  last().push({ type: 'presence', id: last().of('presence')[0].id, code: 200, data: { channel: ROOM, count: 0, members: [] } });
  assert.equal((await history).publications.length, 1);
  assert.equal((await presence).count, 0);
  last().drop(1006);
  assert.deepEqual(await fate(room.history()), { code: 'offline', outcome: 'not_sent' });
  assert.deepEqual(await fate(room.presence()), { code: 'offline', outcome: 'not_sent' });
});

test('the end of the connection is the end of its subscriptions', async () => {
  const { client, clock, last, told, room, signIn } = await inRoom();
  const pending = client.subscribe('chat:b');
  client.disconnect();
  assert.deepEqual(told, [['unsubscribed', 'closed']]);
  assert.deepEqual(await fate(pending.ready), { code: 'closed', outcome: 'not_sent' });
  assert.equal(clock.pending, 0);
  client.connect();
  await signIn();
  assert.equal('channels' in last().of('auth')[0].data, false);
  assert.equal(room.state, 'ended');
});

test('a channel has a name that a channel can have, and is not the lobby', async () => {
  const { client } = setUp();
  for (const name of ['', ':', ':a', 'a:', 'a b', 'a\n', 'é', 'a*', 'x'.repeat(201), 5, undefined, 'lobby']) {
    assert.throws(() => client.subscribe(name), TypeError, String(name));
  }
  for (const name of ['a', 'a:b:c', 'a::', 'A-Z_9=@./#:x', 'x'.repeat(200)]) assert.equal(client.subscribe(name).channel, name);
});
