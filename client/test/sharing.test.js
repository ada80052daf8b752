// Several subscriptions of one channel, and subscriptions made before, between and after connections.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fate, later, setUp, settle } from './fakes.js';

const ROOM = 'chat:room';
const live = (offset) => ({ type: 'publication', data: { channel: ROOM, offset, data: offset, timestamp: 1 } });
const answer = (offset, more) => ({ channel: ROOM, epoch: 'r1', offset, overflow: 'disconnect', ...more });

function record(subscription) {
  const told = [];
  subscription.on('publication', ({ data }) => told.push(data.offset));
  subscription.on('subscribed', ({ data }) => told.push(`subscribed ${data.offset}`));
  subscription.on('unsubscribed', ({ code }) => told.push(`unsubscribed ${code}`));
  subscription.on('error', ({ code }) => told.push(`error ${code}`));
  return told;
}

async function inRoom(options) {
  const all = setUp();
  await all.online();
  const first = all.client.subscribe(ROOM, options);
  await settle();
  all.last().push({ type: 'subscribed', id: all.last().of('subscribe')[0].id, code: 200, data: answer(5) });
  const back = async () => {
    all.last().drop(1006);
    await all.clock.advance(all.states.at(-1).retryInMs);
    await all.signIn();
    return all.last().of('auth')[0].data.channels;
  };
  return { ...all, first, back };
}

test('StrictMode: subscribe, connect, unsubscribe, disconnect, subscribe, connect', async () => {
  const { client, last, signIn } = setUp();
  const first = client.subscribe(ROOM);
  client.connect();
  first.unsubscribe();
  client.disconnect();
  const second = client.subscribe(ROOM);
  client.connect();
  await signIn();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: ROOM }]);
  last().push({ type: 'subscribed', code: 200, data: answer(5) });
  assert.deepEqual([first.state, second.state], ['ended', 'subscribed']);
  await second.ready;
});

test('StrictMode, the clean-up in the other order: disconnect, unsubscribe', async () => {
  const { client, last, signIn } = setUp();
  const first = client.subscribe(ROOM);
  client.connect();
  client.disconnect();
  first.unsubscribe();
  client.connect();
  const second = client.subscribe(ROOM);
  await signIn();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: ROOM }]);
  last().push({ type: 'subscribed', code: 200, data: answer(5) });
  assert.equal(second.state, 'subscribed');
});

test('what is subscribed after the end, by whomever, waits for connect(); disconnect() ends it too', async () => {
  const { client, last, online, signIn } = setUp();
  await online();
  last().drop(4409, 'elsewhere');
  const dropped = client.subscribe(ROOM);
  client.disconnect();
  assert.equal(dropped.state, 'ended');
  await assert.rejects(dropped.ready, { code: 'closed', message: /4409 elsewhere, by the server/ });
  const kept = client.subscribe(ROOM);
  assert.equal(await fate(kept.ready), 'pending');
  client.connect();
  await signIn();
  assert.equal(last().of('auth')[0].data.channels.length, 1);
});

test('a second subscription shares the channel: its own handle, events and end', async () => {
  const { client, last, first } = await inRoom();
  const told = record(first);
  last().push(live(6));
  const second = client.subscribe(ROOM);
  const others = record(second);
  assert.notEqual(second, first);
  assert.deepEqual(await second.ready, answer(6), 'from here on');
  assert.equal(last().of('subscribe').length, 1);
  last().push(live(7));
  first.unsubscribe();
  first.unsubscribe();
  assert.deepEqual(last().of('unsubscribe'), [], 'somebody is there still');
  last().push(live(8));
  assert.deepEqual(told, [6, 7, 'unsubscribed 200']);
  assert.deepEqual(others, ['subscribed 6', 7, 8]);
  await assert.rejects(first.publish(1), { code: 'closed', message: /unsubscribed/ });
  second.unsubscribe();
  assert.equal(last().of('unsubscribe').length, 1);
  assert.equal(client.position(ROOM), null);
});

test('two that wait for the first answer get it both; two that are refused are refused both', async () => {
  const { client, last, signIn } = setUp();
  const pair = [client.subscribe('chat:a'), client.subscribe('chat:a')];
  const refused = [client.subscribe('chat:b'), client.subscribe('chat:b')].map((subscription) => ({ subscription, told: record(subscription) }));
  client.connect();
  await signIn();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: 'chat:a' }, { channel: 'chat:b' }]);
  last().push({ type: 'subscribed', code: 200, data: { channel: 'chat:a', epoch: 'x', offset: 1 } });
  last().push({ type: 'error', code: 403, message: 'no', data: { channel: 'chat:b' } });
  for (const { ready } of pair) assert.equal((await ready).offset, 1);
  for (const { subscription, told } of refused) {
    assert.deepEqual(await fate(subscription.ready), { code: 403, outcome: 'refused' });
    assert.deepEqual(told, ['error 403', 'unsubscribed 403']);
  }
});

test('both come back after a cut with one request', async () => {
  const { client, last, first, back } = await inRoom();
  const second = client.subscribe(ROOM);
  const told = [record(first), record(second)];
  await second.ready;
  assert.deepEqual(await back(), [{ channel: ROOM, recover: { epoch: 'r1', offset: 5 } }]);
  const missed = [{ type: 'publication', channel: ROOM, offset: 6, data: 6, timestamp: 1 }];
  last().push({ type: 'subscribed', code: 200, data: answer(6, { recovered: true, publications: missed }) });
  assert.deepEqual(told, [['subscribed 6', 6], ['subscribed 5', 'subscribed 6', 6]]);
});

test('options that differ: the newest token of those that are left counts; one that recovers is enough', async () => {
  const { client, first, back } = await inRoom({ token: 'old', recover: false });
  assert.deepEqual(await back(), [{ channel: ROOM, token: 'old' }]);
  const second = client.subscribe(ROOM, { token: 'new' });
  client.subscribe(ROOM, { recover: false });
  assert.deepEqual(await back(), [{ channel: ROOM, token: 'new', recover: { epoch: 'r1', offset: 5 } }]);
  second.unsubscribe();
  assert.deepEqual(await back(), [{ channel: ROOM, token: 'old' }]);
  assert.equal(first.state, 'subscribing');
});

test('one that joins and leaves in the same breath hears nothing', async () => {
  const { client, last } = await inRoom();
  const second = client.subscribe(ROOM);
  const told = record(second);
  second.unsubscribe();
  await settle();
  last().push(live(6));
  assert.deepEqual(told, ['unsubscribed 200']);
  later(second.ready);
});

test('a listener that unsubscribes, subscribes or throws amid the events harms nobody', async (t) => {
  t.mock.method(console, 'error', () => {});
  const { client, last, first } = await inRoom();
  const second = client.subscribe(ROOM);
  await second.ready;
  let third;
  first.on('publication', () => {
    second.unsubscribe();
    third ??= client.subscribe(ROOM);
    throw new Error('mine');
  });
  const told = record(second);
  last().push(live(6));
  await third.ready;
  const others = record(third);
  last().push(live(7));
  assert.deepEqual([told, others], [['unsubscribed 200'], [7]]);
  assert.equal(last().of('unsubscribe').length, 0);
});

test('a listener of `unsubscribed` that subscribes anew gets in: the channel has been left by then', async () => {
  const { client, last, first } = await inRoom();
  first.on('unsubscribed', () => client.subscribe(ROOM));
  first.unsubscribe();
  assert.deepEqual(last().sent.map(({ type }) => type).slice(-2), ['unsubscribe', 'subscribe']);
});

test('a token function that throws at once is one that fails', async () => {
  const { client, clock, last, online } = setUp();
  await online();
  let calls = 0;
  const room = client.subscribe(ROOM, { token: () => { if (++calls === 1) throw new Error('mine'); return 'token'; } });
  const told = record(room);
  await clock.advance(500);
  assert.deepEqual(told, ['error no_token']);
  assert.equal(last().of('subscribe')[0].data.token, 'token');
});
