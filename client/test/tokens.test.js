// Tokens that expire while the client is online: the user's, and those of channels.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { later, settle, setUp } from './fakes.js';

const expiring = (expires_at) => ({ type: 'token_expiring', data: { expires_at } });

/** A source of tokens that counts how it was asked. */
function source(next = (count) => `token ${count}`) {
  const asked = [];
  const token = async (how) => {
    asked.push(how);
    return next(asked.length);
  };
  return { asked, token };
}

test('a newer token is asked for and shown, once for each end that is named', async () => {
  const { asked, token } = source();
  const { client, last, online } = setUp({ token });
  await online();
  last().push(expiring(1000));
  last().push(expiring(1000));
  await settle();
  assert.deepEqual(asked, [{ refused: false }, { refused: false }], 'for the sign-in, and once for the end');
  const [refresh] = last().of('refresh');
  assert.equal(last().of('refresh').length, 1);
  assert.deepEqual(refresh.data, { token: 'token 2' });
  last().push({ type: 'refreshed', id: refresh.id, code: 200, data: { expires_at: 1000 } });
  last().push(expiring(1000)); // the newer token ends at the same time: no circle comes of it
  await settle();
  assert.equal(last().of('refresh').length, 1);
  last().push(expiring(2000));
  await settle();
  assert.equal(last().of('refresh').length, 2);
  assert.equal(client.state, 'online');
});

test('a fixed token can not be renewed, and its end is the end', async () => {
  const { client, last, online } = setUp();
  await online();
  last().push(expiring(1000));
  await settle();
  assert.equal(last().of('refresh').length, 0);
  last().push({ type: 'auth_failed', code: 401, message: 'token invalid or expired' });
  assert.equal(client.state, 'closed');
  assert.equal(client.ended.code, 4401);
});

test('a source that fails is asked again; a refused token is not shown again', async () => {
  const { asked, token } = source((count) => {
    if (count === 2) throw new Error('offline');
    return `token ${count}`;
  });
  const { client, clock, last, online } = setUp({ token });
  await online();
  last().push(expiring(1000));
  await settle();
  assert.equal(last().of('refresh').length, 0);
  await clock.advance(500);
  const [refresh] = last().of('refresh');
  assert.deepEqual(refresh.data, { token: 'token 3' });
  last().push({ type: 'error', id: refresh.id, code: 403, message: 'no' });
  await clock.advance(20_000);
  assert.equal(asked.length, 3);
  assert.equal(client.state, 'online', 'until the server ends it');
});

test('nothing is renewed on behalf of a connection that is gone', async () => {
  let give;
  const token = ({ refused }) => (give === undefined && refused === false ? 'first' : new Promise((resolve) => { give = resolve; }));
  const { client, last, online } = setUp({ token });
  await online();
  give = null;
  last().push(expiring(1000));
  await settle();
  const late = give;
  client.disconnect();
  late('second');
  await settle();
  assert.equal(last().of('refresh').length, 0);
});

test('a channel whose token expired goes on with another, from where it was', async () => {
  const { asked, token } = source();
  const { client, last, online } = setUp();
  await online();
  const ends = [];
  const room = client.subscribe('vip:1', { token });
  room.on('unsubscribed', (event) => ends.push(event));
  await settle();
  const [first] = last().of('subscribe');
  last().push({ type: 'subscribed', id: first.id, code: 200, data: { channel: 'vip:1', epoch: 'e', offset: 4 } });
  last().push({ type: 'unsubscribed', code: 401, data: { channel: 'vip:1' } });
  assert.equal(room.state, 'subscribing');
  await settle();
  const second = last().of('subscribe')[1];
  assert.deepEqual(second.data, { channel: 'vip:1', token: 'token 2', recover: { epoch: 'e', offset: 4 } });
  last().push({ type: 'subscribed', id: second.id, code: 200, data: { channel: 'vip:1', epoch: 'e', offset: 4, recovered: true, publications: [] } });
  assert.equal(room.state, 'subscribed');
  assert.deepEqual([asked.length, ends.length], [2, 0]);
  last().push({ type: 'unsubscribed', code: 403, data: { channel: 'vip:1' } });
  assert.equal(room.state, 'ended', 'revoked is for good');
  assert.equal(ends[0].code, 403);
});

test('with a fixed token a channel ends with it', async () => {
  const { client, last, online } = setUp();
  await online();
  const room = client.subscribe('vip:1', { token: 'fixed' });
  later(room.ready);
  await settle();
  const [first] = last().of('subscribe');
  last().push({ type: 'subscribed', id: first.id, code: 200, data: { channel: 'vip:1', epoch: 'e', offset: 4 } });
  last().push({ type: 'unsubscribed', code: 401, data: { channel: 'vip:1' } });
  assert.equal(room.state, 'ended');
});
