// How far a channel was told: gaps, what is not recovered, and positions to begin from.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setUp, settle } from './fakes.js';

const ROOM = 'chat:room';
const live = (offset) => ({ type: 'publication', data: { channel: ROOM, offset, data: offset, timestamp: 1 } });
const element = (offset) => ({ type: 'publication', channel: ROOM, offset, data: offset, timestamp: 1 });
const gap = (from, to, reason, epoch = 'r1') => ({ type: 'gap', data: { channel: ROOM, epoch, from, to, reason } });

/** What publications and gaps told, in order. */
function record(subscription) {
  const told = [];
  subscription.on('publication', ({ data }) => told.push(data.offset));
  subscription.on('gap', ({ data }) => told.push([data.from, data.to]));
  return told;
}

async function inRoom() {
  const all = setUp();
  await all.online();
  const room = all.client.subscribe(ROOM);
  const told = record(room);
  all.last().push({ type: 'subscribed', id: all.last().of('subscribe')[0].id, code: 200, data: { channel: ROOM, epoch: 'r1', offset: 5 } });
  /** Cut, back, and the answer; gives back what was asked to be recovered. */
  const back = async (answer) => {
    all.last().drop(1006);
    await all.clock.advance(all.states.at(-1).retryInMs);
    await all.signIn();
    const [{ recover }] = all.last().of('auth')[0].data.channels;
    all.last().push({ type: 'subscribed', code: 200, data: { channel: ROOM, ...answer } });
    return recover;
  };
  return { ...all, room, told, back };
}

test('cut between `recovered: false` and its gap: it recovers from the old position, until the gap is told', async () => {
  const { last, room, told, back } = await inRoom();
  for (let round = 0; round < 3; round += 1) {
    assert.deepEqual(await back({ epoch: 'r1', offset: 90 + round, recovered: false, publications: [] }), { epoch: 'r1', offset: 5 });
    assert.deepEqual(room.position, { epoch: 'r1', offset: 5 });
  }
  last().push(gap(6, 92, 'history_lost'));
  last().push(live(93));
  assert.deepEqual(told, [[6, 92], 93]);
  assert.deepEqual(await back({ epoch: 'r1', offset: 93, recovered: true, publications: [] }), { epoch: 'r1', offset: 93 });
});

test('the same with a new epoch: what is new there is told, though its offsets are smaller', async () => {
  const { last, room, told, back } = await inRoom();
  await back({ epoch: 'r2', offset: 2, recovered: false, publications: [] });
  assert.deepEqual(await back({ epoch: 'r2', offset: 3, recovered: false, publications: [] }), { epoch: 'r1', offset: 5 });
  last().push(gap(1, 3, 'history_lost', 'r2'));
  last().push(live(4));
  assert.deepEqual(told, [[1, 3], 4]);
  assert.deepEqual(room.position, { epoch: 'r2', offset: 4 });
});

test('where no gap can be named (an empty channel, a position ahead of it) the next publication moves the position', async () => {
  const empty = await inRoom();
  await empty.back({ epoch: 'r2', offset: 0, recovered: false, publications: [] });
  assert.deepEqual(empty.room.position, { epoch: 'r1', offset: 5 });
  empty.last().push(live(1));
  assert.deepEqual([empty.told, empty.room.position], [[1], { epoch: 'r2', offset: 1 }]);

  const ahead = await inRoom();
  await ahead.back({ epoch: 'r1', offset: 3, recovered: false, publications: [] });
  ahead.last().push(live(4));
  ahead.last().push(live(4));
  assert.deepEqual(ahead.told, [4]);
});

test('the lobby: the same', async () => {
  const { client, clock, last, states, online, signIn } = setUp();
  const told = [];
  client.on('message', ({ data }) => told.push(data.offset));
  client.on('gap', ({ data }) => told.push([data.from, data.to]));
  await online();
  for (let round = 0; round < 2; round += 1) {
    last().drop(1006);
    await clock.advance(states.at(-1).retryInMs);
    await signIn({ channel: 'lobby', epoch: 'e2', offset: 4, recovered: false, publications: [] });
    assert.deepEqual(last().of('auth')[0].data.recover, { epoch: 'e1', offset: 7 });
  }
  last().push({ type: 'gap', data: { channel: 'lobby', epoch: 'e2', from: 1, to: 4, reason: 'history_lost' } });
  last().push({ type: 'message', code: 200, data: { channel: 'lobby', offset: 5, text: 'x' } });
  assert.deepEqual(told, [[1, 4], 5]);
  assert.deepEqual(client.position(), { epoch: 'e2', offset: 5 });
});

test('conflated, gaps that end before what is kept: all of it is told, and the position only grows over what was told', async () => {
  const { last, room, told } = await inRoom();
  const positions = [];
  for (const push of [gap(6, 9, 'conflated'), live(10), gap(11, 19, 'conflated'), live(20), live(21)]) {
    last().push(push);
    positions.push(room.position.offset);
  }
  assert.deepEqual(told, [[6, 9], 10, [11, 19], 20, 21]);
  assert.deepEqual(positions, [9, 10, 19, 20, 21]);
});

test('conflated, one gap over all and what is kept inside it: nothing that is kept is dropped, nothing is told twice', async () => {
  const { last, room, told } = await inRoom();
  for (const push of [gap(6, 30, 'conflated'), live(8), live(8), live(15), gap(31, 33, 'conflated'), live(30), live(12), live(33), live(34)]) last().push(push);
  assert.deepEqual(told, [[6, 30], 8, 15, [31, 33], 30, 33, 34]);
  assert.deepEqual(room.position, { epoch: 'r1', offset: 34 });
});

test('what another gap names as lost is lost', async () => {
  const { last, told } = await inRoom();
  for (const push of [gap(6, 30, 'slow_consumer'), live(8), live(30), live(31)]) last().push(push);
  assert.deepEqual(told, [[6, 30], 31]);
});

test('cut amid the recovery, by a listener: the position is behind what was told', async () => {
  const { client, last, room, told, back } = await inRoom();
  const stop = room.on('publication', ({ data }) => data.offset === 7 && last().drop(1006));
  await back({ epoch: 'r1', offset: 9, recovered: true, publications: [6, 7, 8, 9].map(element) });
  stop();
  assert.equal(client.state, 'waiting');
  assert.deepEqual([told, room.position.offset], [[6, 7], 7]);
});

// ---- from a known position ----

test('subscribing from a position asks for what came since, also the first time', async () => {
  const { client, last, signIn } = setUp();
  const room = client.subscribe(ROOM, { recover: { epoch: 'r1', offset: 3 } });
  const told = record(room);
  client.connect();
  await signIn();
  assert.deepEqual(last().of('auth')[0].data.channels, [{ channel: ROOM, recover: { epoch: 'r1', offset: 3 } }]);
  last().push({ type: 'subscribed', code: 200, data: { channel: ROOM, epoch: 'r1', offset: 5, recovered: true, publications: [4, 5].map(element) } });
  last().push(live(6));
  assert.deepEqual(told, [4, 5, 6]);
});

test('what is no position is refused, not passed over', () => {
  const { client } = setUp();
  for (const recover of [{}, { epoch: 'e' }, { offset: 1 }, { epoch: '', offset: 1 }, { epoch: 'e', offset: -1 }, { epoch: 'e', offset: 1.5 }, { epoch: 5, offset: 1 }, []]) {
    assert.throws(() => client.subscribe(ROOM, { recover }), TypeError, JSON.stringify(recover));
  }
});

test('joining a channel from a position: what came since is told from the history, to this subscription alone, before what is new', async () => {
  const { client, last, room, told: first } = await inRoom();
  const joined = client.subscribe(ROOM, { recover: { epoch: 'r1', offset: 2 } });
  const told = record(joined);
  await joined.ready;
  assert.deepEqual(last().of('subscribe').length, 1);
  const [history] = last().of('history');
  assert.deepEqual(history.data, { channel: ROOM, since: { epoch: 'r1', offset: 2 }, limit: 1000 });
  last().push(live(6)); // meanwhile
  last().push({ type: 'history', id: history.id, code: 200, data: { channel: ROOM, epoch: 'r1', offset: 6, publications: [4, 5, 6].map(element) } });
  await settle();
  last().push(live(7));
  assert.deepEqual(told, [[3, 3], 4, 5, 6, 7], 'the third is no longer kept');
  assert.deepEqual(first, [6, 7]);
  assert.deepEqual(room.position, { epoch: 'r1', offset: 7 });
});

test('joining from a position, page by page, and a page that is cut off', async () => {
  const { client, clock, last, states, signIn } = await inRoom();
  const told = record(client.subscribe(ROOM, { recover: { epoch: 'r1', offset: 0 } }));
  await settle();
  const page = (request, offsets) => last().push({ type: 'history', id: request.id, code: 200, data: { channel: ROOM, epoch: 'r1', offset: 5, publications: offsets.map(element) } });
  page(last().of('history')[0], [1, 2]);
  await settle();
  assert.deepEqual(last().of('history')[1].data.since, { epoch: 'r1', offset: 2 });
  last().drop(1006);
  await clock.advance(states.at(-1).retryInMs);
  await signIn();
  last().push({ type: 'subscribed', code: 200, data: { channel: ROOM, epoch: 'r1', offset: 6, recovered: true, publications: [element(6)] } });
  page(last().of('history')[0], [3, 4, 5]);
  await settle();
  last().push(live(7));
  assert.deepEqual(told, [1, 2, 3, 4, 5, 6, 7]);
});

test('joining from a position that the history does not reach, is of another epoch, is refused, or is ahead', async () => {
  for (const [from, answer, expected] of [
    [{ epoch: 'r1', offset: 2 }, { publications: [] }, [[3, 5], 6, 7]],
    [{ epoch: 'r0', offset: 2 }, null, [[1, 5], 6, 7]],
    [{ epoch: 'r1', offset: 2 }, { code: 403 }, [[3, 5], 6, 7]],
    [{ epoch: 'r1', offset: 6 }, null, [7]],
    [{ epoch: 'r1', offset: 5 }, null, [6, 7]],
  ]) {
    const { client, last } = await inRoom();
    const told = record(client.subscribe(ROOM, { recover: from }));
    await settle();
    last().push(live(6));
    const [history] = last().of('history');
    assert.equal(history !== undefined, answer !== null, JSON.stringify(from));
    if (answer?.code) last().push({ type: 'error', id: history.id, code: answer.code, message: 'no' });
    else if (answer) last().push({ type: 'history', id: history.id, code: 200, data: { channel: ROOM, epoch: 'r1', offset: 5, ...answer } });
    await settle();
    last().push(live(7));
    assert.deepEqual(told, expected, JSON.stringify(from));
  }
});

test('more than is held meanwhile is taken from the history too', async () => {
  const { client, last } = await inRoom();
  const told = record(client.subscribe(ROOM, { recover: { epoch: 'r1', offset: 4 } }));
  await settle();
  for (let offset = 6; offset <= 1_500; offset += 1) last().push(live(offset));
  for (let round = 0; round < last().of('history').length; round += 1) {
    const { id, data } = last().of('history')[round];
    const offsets = Array.from({ length: 1_000 }, (_, index) => data.since.offset + 1 + index).filter((offset) => offset <= 1_500);
    last().push({ type: 'history', id, code: 200, data: { channel: ROOM, epoch: 'r1', offset: 1_500, publications: offsets.map(element) } });
    await settle();
  }
  last().push(live(1_501));
  assert.deepEqual(told, Array.from({ length: 1_497 }, (_, index) => 5 + index));
});
