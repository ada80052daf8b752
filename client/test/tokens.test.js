// Tokens: those that end while the client is online, the user's and those of channels, and those that are refused.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { later, SERVER_MS, settle, setUp } from './fakes.js';

const REFUSED = { type: 'error', code: 403, message: 'no' };

/**
 * A server and a source of tokens on one fake clock. `tokens(now)` gives the token to hand out as `{ name, endsAt }` on
 * that clock, or throws. The server renews with every `refresh`, says `token_expiring`, and cuts at the end.
 */
async function run({ life, tokens, forMs, delay = 0, notices = true, judge = () => true }) {
  const asked = []; // when
  let running = 0;
  let most = 0;
  const log = { asked, refreshed: [], cuts: 0 };
  let all = null;
  const token = async () => {
    const now = all.clock.now();
    asked.push(now);
    most = Math.max(most, (running += 1));
    if (delay) await new Promise((resolve) => all.clock.setTimeout(resolve, delay));
    running -= 1;
    return JSON.stringify(tokens(all.clock.now()));
  };
  all = setUp({ token, heartbeatIntervalMs: Infinity });
  const { client, clock, last } = all;
  let endsAt = Infinity;
  let noticeAt = Infinity;
  let seen = 0;
  const named = (end) => {
    endsAt = end;
    noticeAt = end - Math.min(30_000, (end - clock.now()) / 2);
  };
  client.connect();
  await clock.advance(delay);
  await all.signIn(undefined, life);
  named(clock.now() + life);
  for (const until = clock.now() + forMs; clock.now() < until; ) {
    await clock.advance(50);
    for (; seen < last().of('refresh').length; seen += 1) {
      const { id, data } = last().of('refresh')[seen];
      const shown = JSON.parse(data.token);
      if (judge(shown, clock.now())) {
        named(shown.endsAt);
        log.refreshed.push(clock.now());
        last().push({ type: 'refreshed', id, code: 200, data: { expires_at: SERVER_MS + endsAt } });
      } else {
        last().push({ ...REFUSED, id });
      }
      await settle();
    }
    if (notices && clock.now() >= noticeAt) {
      noticeAt = Infinity;
      last().push({ type: 'token_expiring', data: { expires_at: SERVER_MS + endsAt } });
    }
    if (clock.now() >= endsAt) {
      log.cuts += 1;
      break;
    }
  }
  return { ...log, ...all, most };
}

const fresh = (life) => (now) => ({ name: now, endsAt: now + life });
/** As identity libraries do: the token is kept until `margin` before its end. */
function kept(life, margin) {
  let token = { name: 0, endsAt: life };
  return (now) => (token.endsAt - now <= margin ? (token = { name: now, endsAt: now + life }) : token);
}

for (const life of [2_000, 3_000, 5_000, 12_000, 30_000, 36_000, 300_000]) {
  test(`a source of fresh tokens that live ${life} ms: never a cut, one ask for each`, async () => {
    for (const notices of [true, false]) {
      const { asked, cuts, refreshed } = await run({ life, tokens: fresh(life), forMs: 5 * life, notices });
      assert.equal(cuts, 0);
      const apart = life - Math.min(30_000, life / 2);
      const most = Math.ceil((5 * life) / apart) + 1;
      assert.ok(asked.length <= most, `${asked.length} asks, at most ${most}`);
      assert.equal(refreshed.length, asked.length - 1);
    }
  });
}

test('a source that keeps its token until seconds before its end is asked again in time', async () => {
  for (const [life, margin] of [[36_000, 5_000], [300_000, 10_000], [3_600_000, 2_000], [12_000, 2_000], [5_000, 1_500]]) {
    const { asked, cuts, refreshed } = await run({ life, tokens: kept(life, margin), forMs: 2.5 * life });
    assert.equal(cuts, 0, `${life} ms, renewed ${margin} ms before the end`);
    assert.ok(refreshed.length >= 2);
    assert.ok(asked.length <= 1 + 8 * (refreshed.length + 1), `${asked.length} asks for ${refreshed.length} tokens`);
  }
});

test('the schedule: half a minute before the end, then whenever half of the rest has passed, a second apart at least', async () => {
  const { asked, cuts } = await run({ life: 100_000, tokens: () => ({ name: 0, endsAt: 100_000 }), forMs: 110_000 });
  assert.equal(cuts, 1, 'nothing newer is to be had');
  const waits = asked.slice(1).map((at, index) => at - (index ? asked[index] : 0));
  assert.deepEqual(waits, [70_000, 15_000, 7_500, 3_750, 1_875, 1_000]);
});

test('a slow source is never asked twice at a time, and not without a pause', async () => {
  for (const [life, delay] of [[20_000, 1_100], [12_000, 4_000], [3_000, 1_000]]) {
    const { asked, cuts, most } = await run({ life, delay, tokens: fresh(life), forMs: 60_000 });
    assert.equal(cuts, 0, `${life} ms, ${delay} ms to get one`);
    assert.equal(most, 1);
    assert.ok(asked.length <= 2 + 60_000 / (life / 2), String(asked.length));
  }
});

test('a source that fails is asked again on the same schedule', async () => {
  let fails = 3;
  const tokens = (now) => {
    if (now > 0 && fails-- > 0) throw new Error('offline');
    return { name: now, endsAt: now + 40_000 };
  };
  const { asked, cuts } = await run({ life: 40_000, tokens, forMs: 60_000 });
  assert.equal(cuts, 0);
  assert.deepEqual(asked.slice(1, 5), [20_000, 30_000, 35_000, 37_500]);
});

test('a source that throws at once, or says that it is final, ends nothing before the token does', async () => {
  let calls = 0;
  const token = ({ refused }) => {
    calls += 1;
    if (calls === 1) return 'first';
    throw Object.assign(new Error(`no ${refused}`), { final: true });
  };
  const { client, clock, online } = setUp({ token, heartbeatIntervalMs: Infinity });
  await online(10_000);
  await clock.advance(9_900);
  assert.equal(calls, 2, 'final: not asked again');
  assert.equal(client.state, 'online');
});

test('a refused token is asked for anew and told so; after three the server is shown no more', async () => {
  const hows = [];
  const token = async (how) => `token ${hows.push(how)}`;
  const { client, clock, last, online } = setUp({ token, heartbeatIntervalMs: Infinity });
  await online(60_000);
  for (let round = 0; round < 59; round += 1) {
    await clock.advance(1_000);
    for (const { id } of last().of('refresh')) last().push({ ...REFUSED, id });
    await settle();
  }
  assert.deepEqual(hows, [{ refused: false }, { refused: false }, { refused: true }, { refused: true }]);
  assert.equal(last().of('refresh').length, 3);
  assert.equal(client.state, 'online', 'until the server ends it');
});

test('a token from the future that is refused at first is shown again, and taken', async () => {
  const { cuts, refreshed } = await run({
    life: 20_000, tokens: (now) => ({ name: now > 0 ? 'newer' : 'first', endsAt: 100_000 }), forMs: 30_000,
    judge: (token, now) => now >= 14_000,
  });
  assert.deepEqual([cuts, refreshed.length], [0, 1]);
});

test('a token that lives for years starts no timer that overflows', async () => {
  for (const life of [100 * 365 * 86_400_000, Number.MAX_SAFE_INTEGER - SERVER_MS]) {
    let calls = 0;
    const delays = [];
    const env = { setTimeout: (run, ms) => (delays.push(ms), clock.setTimeout(run, ms)) };
    const { clock, online } = setUp({ token: async () => `token ${++calls}`, heartbeatIntervalMs: Infinity, env });
    await online(life);
    await clock.advance(60_000);
    assert.equal(calls, 1);
    assert.ok(Math.max(...delays) < 2 ** 31);
  }
});

test('a token of the same end, or the same token, makes no circle', async () => {
  let calls = 0;
  const { clock, last, online } = setUp({ token: async () => `token ${++calls}`, heartbeatIntervalMs: Infinity });
  await online(60_000);
  for (let round = 0; round < 600; round += 1) {
    await clock.advance(95);
    for (const { id } of last().of('refresh')) last().push({ type: 'refreshed', id, code: 200, data: { expires_at: SERVER_MS + 60_000 } });
    if (clock.now() >= 30_000) last().push({ type: 'token_expiring', data: { expires_at: SERVER_MS + 60_000 } });
  }
  assert.ok(calls <= 7, String(calls));
});

test("a server that says token_expiring of every new token, and not when the token ends, makes no circle either", async () => {
  let calls = 0;
  const { clock, last, online } = setUp({ token: async () => `token ${++calls}`, heartbeatIntervalMs: Infinity });
  await online();
  let answered = 0;
  let endsAt = 20_000;
  last().push({ type: 'token_expiring', data: { expires_at: SERVER_MS + endsAt } });
  for (let round = 0; round < 600; round += 1) {
    await clock.advance(100);
    for (; answered < last().of('refresh').length; answered += 1) {
      endsAt = clock.now() + 20_000;
      last().push({ type: 'refreshed', id: last().of('refresh')[answered].id, code: 200, data: { expires_at: SERVER_MS + endsAt } });
      await settle();
      last().push({ type: 'token_expiring', data: { expires_at: SERVER_MS + endsAt } });
    }
    assert.ok(clock.now() < endsAt, 'no cut');
  }
  assert.ok(calls <= 8, String(calls));
});

test('a fixed token can not be renewed, and its end is the end', async () => {
  const { client, last, online } = setUp();
  await online(10_000);
  last().push({ type: 'token_expiring', data: { expires_at: SERVER_MS + 10_000 } });
  await settle();
  assert.equal(last().of('refresh').length, 0);
  last().push({ type: 'auth_failed', code: 401, message: 'token invalid or expired' });
  assert.equal(client.state, 'closed');
  assert.equal(client.ended.code, 4401);
});

test('nothing is renewed on behalf of a connection that is gone', async () => {
  let give;
  let calls = 0;
  const token = () => (++calls === 1 ? 'first' : new Promise((resolve) => (give = resolve)));
  const { client, clock, last, online } = setUp({ token });
  await online(10_000);
  await clock.advance(5_000);
  assert.equal(calls, 2);
  client.disconnect();
  give('second');
  await settle();
  assert.equal(last().of('refresh').length, 0);
  assert.equal(clock.pending, 0);
});

test('an ask that a reconnect finds under way is the one that it waits for', async () => {
  const give = [];
  const token = () => new Promise((resolve) => give.push(resolve));
  const { client, clock, last } = setUp({ token, connectTimeoutMs: 4_000 });
  client.connect();
  await clock.advance(4_000);
  assert.equal(client.state, 'waiting', 'the token is late');
  await clock.advance(500);
  assert.equal(give.length, 1, 'asked once');
  give[0]('late');
  await settle();
  last().open();
  assert.equal(last().of('auth')[0].data.token, 'late');
});

test('an ask that is never answered is given up after a minute', async () => {
  let calls = 0;
  const token = () => (++calls === 1 ? new Promise(() => {}) : 'second');
  const { client, clock, sockets } = setUp({ token });
  client.connect();
  await clock.advance(59_000);
  assert.deepEqual([calls, sockets.length], [1, 0]);
  await clock.advance(41_000);
  assert.ok(calls > 1);
  assert.ok(sockets.length > 0);
});

// ---- sign-in ----

/** Refuses the token of the present attempt; gives back how long the client waits. */
async function refuse({ last, states }) {
  await settle();
  last().open();
  last().push({ type: 'auth_failed', code: 401, message: 'token invalid or expired' });
  last().drop(4401);
  return states.at(-1).retryInMs;
}

test('4401: the function is asked again after a pause that doubles; eight in a row are final', async () => {
  const asked = [];
  const token = async ({ refused }) => `token ${asked.push(refused)}`;
  const all = setUp({ token });
  const { client, clock, sockets } = all;
  client.connect();
  const waits = [];
  for (let round = 0; round < 7; round += 1) {
    waits.push(await refuse(all));
    assert.equal(client.state, 'waiting');
    await clock.advance(waits.at(-1) - 1);
    assert.equal(asked.length, round + 1, 'not a moment earlier');
    await clock.advance(1);
  }
  assert.deepEqual(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  await refuse(all);
  assert.deepEqual(client.ended, { code: 4401, reason: 'token invalid or expired', by: 'server' });
  await clock.advance(3_600_000);
  assert.equal(sockets.length, 8);
  assert.deepEqual(asked, [false, true, true, true, true, true, true, true]);
});

test('4401: at least half of the pause passes, however the dice fall', async () => {
  const all = setUp({ token: async () => 'token', random: () => 0 });
  all.client.connect();
  assert.equal(await refuse(all), 500);
});

test('a token that is refused for a while, as with a clock that is ahead, is taken in the end', async () => {
  const all = setUp({ token: async () => 'from the future' });
  all.client.connect();
  for (let round = 0; round < 3; round += 1) await all.clock.advance(await refuse(all));
  await all.signIn();
  assert.equal(all.client.state, 'online');
});

test('4401 behind sign-ins that succeed is never final, and the pause grows while they are short', async () => {
  let calls = 0;
  const all = setUp({ token: async () => `token ${++calls}`, heartbeatIntervalMs: Infinity });
  const { client, clock, states, last, online, signIn } = all;
  await online();
  const waits = [];
  for (let round = 0; round < 10; round += 1) {
    last().drop(4401);
    assert.equal(client.state, 'waiting');
    waits.push(states.at(-1).retryInMs);
    await clock.advance(waits.at(-1));
    await signIn();
    assert.equal(client.state, 'online');
  }
  assert.deepEqual(waits.slice(0, 6), [1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
  await clock.advance(10_000);
  last().drop(4401);
  assert.equal(states.at(-1).retryInMs, 1_000, 'a connection that stayed begins afresh');
});

test('4401 with a fixed token is final', async () => {
  const { client, last } = setUp();
  client.connect();
  await settle();
  last().open();
  last().push({ type: 'auth_failed', code: 401, message: 'token invalid or expired' });
  assert.equal(client.state, 'closed');
  assert.deepEqual(client.ended, { code: 4401, reason: 'token invalid or expired', by: 'server' });
});

test('a token function that fails is tried again later, unless it says that is final', async () => {
  let calls = 0;
  const failing = setUp({
    token: async () => {
      calls += 1;
      if (calls === 1) throw new Error('no network');
      return 'secret';
    },
  });
  failing.client.connect();
  await settle();
  assert.equal(failing.client.state, 'waiting');
  await failing.clock.advance(500);
  assert.equal(failing.sockets.length, 1);

  const refusing = setUp({ token: async () => { throw Object.assign(new Error('bad name'), { final: true }); } });
  refusing.client.connect();
  await settle();
  assert.equal(refusing.client.state, 'closed');
  assert.match(refusing.client.ended.reason, /bad name/);
});

// ---- channels ----

const VIP = 'vip:1';

/** Online, and subscribed to a channel by a token that lives so long. */
async function inVip(token, life) {
  const all = setUp({ heartbeatIntervalMs: Infinity });
  await all.online();
  const room = all.client.subscribe(VIP, { token });
  const ends = [];
  room.on('unsubscribed', (event) => ends.push(event));
  await settle();
  const [{ id }] = all.last().of('subscribe');
  const data = { channel: VIP, epoch: 'e', offset: 4 };
  if (life !== undefined) data.expires_at = SERVER_MS + life;
  all.last().push({ type: 'subscribed', id, code: 200, data });
  return { ...all, room, ends };
}

test("a channel's token is renewed before its end, without leaving the channel", async () => {
  const hows = [];
  const { clock, last, room, ends } = await inVip(async (how) => `token ${hows.push(how)}`, 10_000);
  await clock.advance(5_000);
  const [{ id, data }] = last().of('refresh');
  assert.deepEqual(data, { token: 'token 2', channel: VIP });
  last().push({ type: 'refreshed', id, code: 200, data: { channel: VIP, expires_at: SERVER_MS + 25_000 } });
  last().push({ type: 'token_expiring', data: { channel: VIP, expires_at: SERVER_MS + 25_000 } });
  await clock.advance(9_900);
  assert.equal(last().of('refresh').length, 1);
  await clock.advance(200);
  assert.equal(last().of('refresh').length, 2, 'at half of the new one');
  assert.deepEqual(hows, Array(3).fill({ channel: VIP, refused: false }));
  assert.deepEqual([room.state, ends], ['subscribed', []]);
  room.unsubscribe();
  await clock.advance(60_000);
  assert.equal(hows.length, 3, 'nobody needs it any more');
});

test('a channel whose token expired goes on with another, from where it was', async () => {
  let calls = 0;
  const { clock, last, room, ends } = await inVip(async () => `token ${++calls}`);
  await clock.advance(1_000);
  last().push({ type: 'unsubscribed', code: 401, data: { channel: VIP } });
  assert.equal(room.state, 'subscribing');
  await settle();
  const second = last().of('subscribe')[1];
  assert.deepEqual(second.data, { channel: VIP, token: 'token 2', recover: { epoch: 'e', offset: 4 } });
  last().push({ type: 'subscribed', id: second.id, code: 200, data: { channel: VIP, epoch: 'e', offset: 4, recovered: true, publications: [] } });
  assert.equal(room.state, 'subscribed');
  assert.deepEqual([calls, ends.length], [2, 0]);
  last().push({ type: 'unsubscribed', code: 403, data: { channel: VIP } });
  assert.equal(room.state, 'ended', 'revoked is for good');
  assert.equal(ends[0].code, 403);
});

test('a channel whose token ends as soon as it is taken is asked for once a second, not without a pause', async () => {
  let calls = 0;
  const { clock, last } = await inVip(async () => `token ${++calls}`);
  let answered = 1;
  for (let round = 0; round < 100; round += 1) {
    last().push({ type: 'unsubscribed', code: 401, data: { channel: VIP } });
    await clock.advance(100);
    for (; answered < last().of('subscribe').length; answered += 1) {
      last().push({ type: 'subscribed', id: last().of('subscribe')[answered].id, code: 200, data: { channel: VIP, epoch: 'e', offset: 4, recovered: true } });
    }
  }
  assert.ok(calls >= 10 && calls <= 11, String(calls));
});

test("a channel's token that is refused is asked for again, later each time; three in a row end it", async () => {
  const hows = [];
  const { client, clock, last, online } = setUp({ heartbeatIntervalMs: Infinity });
  await online();
  const room = client.subscribe(VIP, { token: async (how) => `token ${hows.push(how)}` });
  later(room.ready);
  for (const [round, wait] of [1_000, 2_000].entries()) {
    await settle();
    last().push({ ...REFUSED, id: last().of('subscribe')[round].id, data: { channel: VIP } });
    assert.equal(room.state, 'subscribing');
    await clock.advance(wait - 1);
    assert.equal(hows.length, round + 1);
    await clock.advance(1);
  }
  await settle();
  last().push({ ...REFUSED, id: last().of('subscribe')[2].id, data: { channel: VIP } });
  assert.equal(room.state, 'ended');
  assert.deepEqual(hows.map(({ refused }) => refused), [false, true, true]);
});

test('with a fixed token a channel ends with it', async () => {
  const { last, room } = await inVip('fixed', 10_000);
  last().push({ type: 'token_expiring', data: { channel: VIP, expires_at: SERVER_MS + 10_000 } });
  await settle();
  assert.equal(last().of('refresh').length, 0);
  last().push({ type: 'unsubscribed', code: 401, data: { channel: VIP } });
  assert.equal(room.state, 'ended');
});
