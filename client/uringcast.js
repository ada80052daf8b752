// The JavaScript client of the uringcast protocol, for browsers and Node: no dependencies, no build step. This file and the
// folder `uringcast/` beside it are the whole of it.
//
// The class here owns the connection's life: sign-in, signs of life, reconnecting, the token. `uringcast/` has the rest:
// `requests.js` what is not answered yet, `channels.js` the subscriptions, `position.js` how far a channel was told,
// `renewal.js` when to ask for a newer token, `platform.js` what comes from the machine. Nobody but this class writes to a
// socket. What happens is told through events.
//
// Three rules hold everything together:
//  - `#turn` numbers the attempts to be connected. Every callback (socket, timer, token) carries the number it was made
//    under and does nothing once that has passed, so nothing left over can revive a client that has ended.
//  - Nothing but `auth` and `heartbeat` is transmitted outside the state `online`.
//  - What a channel brings passes its position on the way to the listeners, once: a duplicate is told to nobody.

import { Channels } from './uringcast/channels.js';
import {
  ABNORMAL, DRAINING, GOING_AWAY, KICKED, NORMAL, NO_SIGN_OF_LIFE, UNAUTHORIZED, UringcastError, closedError, isFinal,
} from './uringcast/errors.js';
import { Listeners, Timers, TokenSource, environment, randomKey, watchPage } from './uringcast/platform.js';
import { Progress, checkPosition } from './uringcast/position.js';
import { Renewal } from './uringcast/renewal.js';
import { Requests } from './uringcast/requests.js';

export { Subscription } from './uringcast/subscription.js';
export { UringcastError, isFinal };

const DEFAULTS = {
  ping: true, // ask the server for `ping` messages: a page can't see ping frames
  recover: true, // after a reconnect, ask for what was missed in the lobby; a position: at the first sign-in too
  resend: true, // after a reconnect, repeat what was sent and not acknowledged, under its idempotency key
  protocols: ['uringcast.v1'],
  queueLimit: 256, // messages not yet acknowledged, waiting ones included
  messageLifetimeMs: 240_000, // shorter than the five minutes for which the server knows an idempotency key
  requestTimeoutMs: 10_000, // from asking to the answer, over a reconnect too where the question can be asked again
  connectTimeoutMs: 10_000, // for each of: the token, the handshake, the sign-in
  heartbeatIntervalMs: 25_000, // of hearing nothing
  heartbeatTimeoutMs: 10_000,
  checkTimeoutMs: 5_000, // the same where there is reason to doubt: `check()`, the page's events, a request without an answer
  backoffBaseMs: 500,
  backoffMaxMs: 30_000,
  stableMs: 10_000, // an online connection that lived this long starts the backoff afresh
  maxAttempts: Infinity, // reconnects in a row
  maxRefusals: 8, // refused tokens in a row, of a token function
};

/** What the server sends, apart from the answers, which go to whoever asked. Any other type is given to `unknown`. */
const PUSHES = new Set([
  'system', 'auth_success', 'auth_failed', 'kicked', 'error', 'message', 'user_online', 'user_offline', 'publication',
  'gap', 'join', 'leave', 'presence_digest', 'token_expiring', 'unsubscribed', 'draining',
]);

const LOBBY = 'lobby';
const REFUSAL_PAUSE_MS = 1_000; // after a first refused token; doubled for each further one, up to `backoffMaxMs`
const MAX_DRAIN_WAIT_MS = 600_000;
const CLOSE_AFTER_ERROR_MS = 100; // some sockets fire `error` and never `close`
const LOOK_MS = 5_000; // how often to look whether the machine has slept
const SLEPT_MS = 3_000; // a timer that is this late, or a wall clock that is this far ahead, means that it has
const HASTE_MS = 1_000; // the page's events start no attempt within this of the last
const OPEN = 1; // WebSocket.OPEN

export class Uringcast {
  #url;
  #options;
  #env;
  #listeners = new Listeners();
  #timers; // `#leave` stops them all, so none outlives its turn
  #requests;
  #channels;
  #tokens;
  #renewal;
  #stopWatching = null;

  #state = 'idle';
  #turn = 0;
  #socket = null;
  #openedAt = 0;
  #attempt = 0;
  #refusals = 0; // tokens refused in a row
  #hurriable = true; // whether the page's events may end the present wait
  #onlineSince = null;
  #lastHeard = 0;
  #lookedAt = { now: 0, wall: 0 };
  #drainUntil = null;
  #failure = ''; // what the socket's `error` said
  #lastLoss = null; // { code, reason, by }
  #authId = null;
  #token = null; // the one that the server knows
  #serverClock = null; // what the server's clock was ahead of the monotonic one, at least

  #lobby;
  #lobbyAsked = false; // whether the present sign-in asks to recover the lobby

  /** The signed-in user, as the server names it; null before the first sign-in. */
  user = null;
  /** Why the client ended: `{ code, reason, by: 'client' | 'server' }`; null while it has not. */
  ended = null;

  constructor(url, { env = {}, ...options } = {}) {
    this.#url = String(url);
    this.#options = { ...DEFAULTS, ...options };
    this.#env = environment(env);
    const { recover } = this.#options;
    this.#lobby = new Progress(recover !== null && typeof recover === 'object' ? checkPosition(recover) : null);
    this.#timers = new Timers(this.#env);
    this.#tokens = new TokenSource(this.#env);
    this.#renewal = new Renewal(this.#env, (how) => this.#renew(how));
    this.#requests = new Requests({
      env: this.#env,
      options: this.#options,
      transmit: (text) => this.#state === 'online' && this.#write(text),
      onSilence: (since) => this.#lastHeard <= since && this.check(),
    });
    this.#channels = new Channels({
      env: this.#env,
      timers: this.#timers,
      requests: this.#requests,
      turn: () => this.#turn,
      isOnline: () => this.#state === 'online',
      newKey: () => randomKey(this.#env.random),
      backoff: (attempt) => this.#backoff(attempt),
      patience: (refusals) => this.#patience(refusals),
      remaining: (expiresAt) => this.#remaining(expiresAt),
      showToken: (token, channel, accepted) => this.#showToken(token, channel, accepted),
      flush: () => this.#flush(),
      push: (envelope) => this.#push(envelope),
      publish: (data, timeoutMs) => this.#enqueue('publish', data, timeoutMs),
      read: (type, data, timeoutMs) => this.#read(type, data, timeoutMs),
    });
  }

  /** `idle`, `connecting`, `authenticating`, `online`, `waiting` (to reconnect) or `closed` (for good, unless told to connect). */
  get state() {
    return this.#state;
  }

  /** Messages not yet acknowledged. */
  get queued() {
    return this.#requests.messages;
  }

  /** The last place told in a channel, `{ epoch, offset }`, or null. */
  position(channel = LOBBY) {
    return channel === LOBBY ? this.#lobby.position : this.#channels.position(channel);
  }

  /** Listens for `state`, `push` (every server message that answers no request), one type of push, or `unknown`. Returns how to stop. */
  on(type, listener) {
    return this.#listeners.on(type, listener);
  }

  off(type, listener) {
    this.#listeners.off(type, listener);
  }

  /** Connects; while waiting to reconnect, tries at once; while online, checks the connection; after the end, starts anew. */
  connect() {
    if (this.#state !== 'idle' && this.#state !== 'closed') return this.check();
    if (this.#state === 'closed') this.#lobby = new Progress(); // it may be another user, who has missed nothing
    this.#attempt = 0;
    this.#refusals = 0;
    this.#lastLoss = null;
    this.user = null;
    this.ended = null;
    this.#stopWatching = watchPage(this.#env.page, { onReturn: () => this.#hurry(), onHide: () => this.#hidden() });
    this.#open();
    return this;
  }

  /**
   * Finds out now whether the connection is alive: online, it asks for a sign of life and reconnects without one within
   * `checkTimeoutMs`; while connecting, the attempt gets that long; while waiting to reconnect, it tries at once.
   */
  check() {
    if (this.#state === 'waiting') this.#open();
    else if (this.#state === 'online') this.#askForLife(this.#options.checkTimeoutMs);
    else if (this.#socket !== null) this.#timers.hasten('deadline', this.#options.checkTimeoutMs);
    return this;
  }

  /** Ends the connection for good: no reconnect; subscriptions end, and what was queued is refused with `closed`. */
  disconnect() {
    if (this.#state === 'closed') this.#channels.retire(this.#channels.takeAll(), this.ended);
    else this.#finish({ code: NORMAL, reason: 'disconnected', by: 'client' });
  }

  /**
   * Sends a chat message to the lobby (or `channel`) and resolves with the acknowledgement's data. Offline it waits for the
   * next sign-in; a connection that dies on the way doesn't matter. Rejects with `queue_full` when `queueLimit` messages
   * are unacknowledged already.
   */
  send(text, { channel, idempotencyKey = randomKey(this.#env.random), timeoutMs } = {}) {
    if (typeof text !== 'string') return Promise.reject(new TypeError('the text must be a string'));
    return this.#enqueue('message', { text, idempotency_key: idempotencyKey, channel }, timeoutMs);
  }

  /**
   * Takes part in a channel from now on, over reconnects, until `unsubscribe()`, the server or the end of the connection
   * ends it. After the end it waits for the next `connect()`. `token` is for channels that ask for one: a string, or a
   * function that is asked anew each time. With `recover` what was missed while away is told after a reconnect, before
   * anything newer; a position as `recover` does so from the start. Each call gives a subscription of its own; they share
   * the channel.
   */
  subscribe(channel, options) {
    const begin = ['connecting', 'authenticating', 'online'].includes(this.#state);
    return this.#channels.subscribe(channel, options, begin);
  }

  /** Asks the server something now and resolves with the answer's data. Rejects with `offline` unless online; never repeated. */
  request(type, data = {}, { timeoutMs } = {}) {
    if (this.#state === 'closed') return Promise.reject(this.#closedError());
    return this.#requests.once(type, data, timeoutMs, this.#lastLoss);
  }

  /** One page of who is online: `{ count, members, cursor? }`. */
  users({ cursor, limit, timeoutMs } = {}) {
    return this.#read('users', { cursor, limit }, timeoutMs);
  }

  /** Who is online, page after page, until the end or until the caller stops. */
  async *userPages({ limit } = {}) {
    let cursor;
    do {
      const page = await this.users({ cursor, limit });
      yield page;
      if (page.cursor === cursor) return; // a server that repeats itself must not keep us here
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  // ---- the connection's life ----

  async #open() {
    const turn = this.#leave();
    this.#openedAt = this.#env.now();
    if (!this.#enter('connecting')) return;
    const { token: source, connectTimeoutMs, protocols } = this.#options;
    const { WebSocket } = this.#env;
    if (typeof WebSocket !== 'function') {
      return this.#finish({ code: ABNORMAL, reason: 'there is no WebSocket here: pass one as env.WebSocket', by: 'client' });
    }
    this.#channels.prepareAll();
    const expect = (what) => this.#timers.start('deadline', connectTimeoutMs, () => this.#lost({ code: ABNORMAL, reason: `no ${what} in time`, by: 'client' }));
    expect('token');

    let token = source;
    if (typeof source === 'function') {
      try {
        token = await this.#tokens.ask(source, { refused: this.#refusals > 0 });
      } catch (error) {
        if (turn !== this.#turn) return;
        const reason = `no token: ${error?.message ?? error}`;
        return error?.final ? this.#finish({ code: UNAUTHORIZED, reason, by: 'client' }) : this.#lost({ code: ABNORMAL, reason, by: 'client' });
      }
      if (turn !== this.#turn) return;
    }
    if (typeof token !== 'string' || token === '') {
      return this.#finish({ code: UNAUTHORIZED, reason: 'there is no token', by: 'client' });
    }

    let socket;
    try {
      socket = new WebSocket(this.#url, protocols);
    } catch (error) {
      // A URL that can't be used now can't be used later.
      return this.#finish({ code: ABNORMAL, reason: String(error?.message ?? error), by: 'client' });
    }
    this.#socket = socket;
    expect('connection');
    // The callbacks stay on the socket when we leave it (some implementations throw an unheard `error`); `turn` mutes them.
    socket.onopen = () => turn === this.#turn && this.#authenticate(token);
    socket.onmessage = (event) => turn === this.#turn && this.#receive(event.data);
    socket.onclose = (event) => turn === this.#turn && this.#closed(event?.code ?? ABNORMAL, event?.reason ?? '');
    socket.onerror = (event) => turn === this.#turn && this.#failed(event);
  }

  #authenticate(token) {
    const { ping, recover, connectTimeoutMs } = this.#options;
    const at = recover ? this.#lobby.position : null;
    this.#lobbyAsked = at !== null;
    const channels = this.#channels.forSignIn();
    const data = { token, ping: ping || undefined, recover: at ?? undefined, channels: channels.length > 0 ? channels : undefined };
    this.#token = token;
    this.#authId = this.#requests.nextId();
    this.#write(JSON.stringify({ type: 'auth', id: this.#authId, data }));
    this.#timers.start('deadline', connectTimeoutMs, () => this.#lost({ code: ABNORMAL, reason: 'no answer to the sign-in', by: 'client' }));
    this.#enter('authenticating');
  }

  #authenticated(envelope) {
    const turn = this.#turn;
    const { user, lobby, expires_at: expiresAt } = envelope.data ?? {};
    const before = this.#lobby.position;
    this.#timers.stop('deadline');
    this.#refusals = 0;
    this.#onlineSince = this.#env.now();
    this.user = user ?? null;
    if (lobby) this.#lobby.resume(lobby, this.#lobbyAsked);
    else this.#lobby = new Progress();
    if (typeof this.#options.token === 'function') this.#renewal.expires(expiresAt, this.#remaining(expiresAt));

    const previous = this.#state;
    this.#state = 'online'; // before the listeners run: what they send must queue up behind what waited
    this.#channels.signedIn();
    this.#flush();
    this.#lookedAt = { now: this.#env.now(), wall: this.#env.wall() };
    this.#look();
    this.#push(envelope);
    if (turn !== this.#turn) return;
    this.#emit('state', { state: 'online', previous, missed: missed(before, lobby) });
    for (const { type = 'message', ...data } of lobby?.publications ?? []) {
      if (turn !== this.#turn) return;
      this.#push({ type, code: 200, data });
    }
    if (turn === this.#turn && lobby && lobby.recovered !== false) this.#lobby.caughtUp(lobby.offset);
  }

  /** The socket failed. `close` follows and says more, or the connection ends with this. */
  #failed(event) {
    this.#failure = event?.message || event?.error?.message || '';
    const reason = this.#failure || 'the connection failed';
    this.#timers.start('failed', CLOSE_AFTER_ERROR_MS, () => this.#lost({ code: ABNORMAL, reason, by: 'network' }));
  }

  /** The server, or the way to it, closed the socket. */
  #closed(code, said) {
    const reason = said || this.#failure;
    if (code === UNAUTHORIZED) this.#unauthorized(reason);
    else if (isFinal(code)) this.#finish({ code, reason, by: 'server' });
    else this.#lost({ code, reason, by: code === ABNORMAL ? 'network' : 'server' });
  }

  /**
   * The token was refused, or is at its end. A function is asked for another after a pause that grows; `maxRefusals` of them in
   * a row are the end. A fixed token will not get better.
   */
  #unauthorized(reason) {
    const ended = { code: UNAUTHORIZED, reason, by: 'server' };
    this.#refusals += 1;
    if (typeof this.#options.token !== 'function' || this.#refusals >= this.#options.maxRefusals) return this.#finish(ended);
    this.#resetBackoff();
    this.#lost(ended, this.#patience(Math.max(this.#refusals, this.#attempt + 1)));
  }

  #lost(info, wait) {
    const { maxAttempts } = this.#options;
    this.#resetBackoff();
    if (this.#attempt >= maxAttempts) return this.#finish({ ...info, by: 'client' });

    const drain = this.#drainUntil === null ? null : Math.max(0, this.#drainUntil - this.#env.now());
    const retryInMs = drain ?? wait ?? this.#backoff(this.#attempt);
    this.#hurriable = drain === null && wait === undefined;
    this.#attempt += 1;
    this.#lastLoss = info;
    this.#leave(info);
    this.#timers.start('wait', retryInMs, () => this.#open());
    const { code, reason } = info;
    this.#enter('waiting', { code, reason, retryInMs, attempt: this.#attempt });
  }

  #resetBackoff() {
    if (this.#onlineSince !== null && this.#env.now() - this.#onlineSince >= this.#options.stableMs) this.#attempt = 0;
  }

  #finish(ended) {
    this.#leave(ended);
    this.#stopWatching?.();
    this.#tokens.forget();
    this.ended = ended;
    const channels = this.#channels.takeAll();
    this.#requests.end(ended);
    this.#enter('closed', ended);
    this.#channels.retire(channels, ended);
  }

  /** Leaves the present connection or attempt, whatever it is: from here on nothing of it is heard. */
  #leave(cause) {
    this.#turn += 1;
    this.#timers.stopAll();
    this.#renewal.stop();
    this.#channels.lost();
    const socket = this.#socket;
    this.#socket = null;
    this.#onlineSince = null;
    this.#drainUntil = null;
    this.#authId = null;
    this.#token = null;
    this.#serverClock = null;
    this.#failure = '';
    this.#requests.lost(cause);
    try {
      socket?.close(NORMAL);
    } catch {
      // It may be beyond closing, and it is not ours any more.
    }
    return this.#turn;
  }

  // ---- the token ----

  /** Milliseconds until the server's clock shows this time; NaN if it has not told its clock. */
  #remaining(expiresAt) {
    return expiresAt - (this.#env.now() + (this.#serverClock ?? NaN));
  }

  async #renew({ refused }) {
    const turn = this.#turn;
    const token = await this.#tokens.ask(this.#options.token, { refused });
    if (turn !== this.#turn || this.#state !== 'online' || typeof token !== 'string' || token === '' || token === this.#token) return {};
    return this.#showToken(token, undefined, () => (this.#token = token));
  }

  /** For `Renewal`: what came of it. A refusal for another reason than the token throws. */
  async #showToken(token, channel, accepted) {
    try {
      const { expires_at: expiresAt } = await this.request('refresh', { token, channel });
      accepted();
      return { expiresAt, remaining: this.#remaining(expiresAt) };
    } catch (error) {
      if (error.code === 401 || error.code === 403) return { refused: true };
      throw error;
    }
  }

  // ---- signs of life ----

  /** Looks now and then: after a silence asks for a sign of life, and at once if the machine has slept. */
  #look(late = 0) {
    const { heartbeatIntervalMs, heartbeatTimeoutMs, checkTimeoutMs } = this.#options;
    const [now, wall] = [this.#env.now(), this.#env.wall()];
    const slept = wall - this.#lookedAt.wall - (now - this.#lookedAt.now); // which this clock has not counted
    this.#lookedAt = { now, wall };
    if (slept > SLEPT_MS) {
      this.#renewal.slept(slept);
      this.#channels.slept(slept);
    }
    const silence = now - this.#lastHeard;
    if (late > SLEPT_MS || slept > SLEPT_MS) this.#askForLife(checkTimeoutMs);
    else if (silence >= heartbeatIntervalMs && !this.#timers.isRunning('verdict')) this.#askForLife(heartbeatTimeoutMs);
    const rest = heartbeatIntervalMs - silence;
    this.#timers.start('look', rest > 0 ? Math.min(rest, LOOK_MS) : LOOK_MS, (lateness) => this.#look(lateness));
  }

  /** Without an answer the connection is dead, whatever the socket believes. */
  #askForLife(patienceMs) {
    if (this.#timers.isRunning('verdict')) return this.#timers.hasten('verdict', patienceMs);
    const askedAt = this.#env.now();
    this.#write('{"type":"heartbeat"}');
    this.#timers.start('verdict', patienceMs, (late) => {
      // What came may have lain in a buffer; and of a timer that is late, the answer may still lie there.
      if (this.#lastHeard > askedAt || late > SLEPT_MS) this.#askForLife(patienceMs);
      else this.#lost({ code: NO_SIGN_OF_LIFE, reason: 'no sign of life', by: 'client' });
    });
  }

  /** The page says that the network, or its user, is back. */
  #hurry() {
    if (this.#state === 'waiting' && (!this.#hurriable || this.#env.now() - this.#openedAt < HASTE_MS)) return;
    this.check();
  }

  /** The page goes away. If it was only put aside, `#hurry` or the timer brings the connection back. */
  #hidden() {
    if (this.#socket !== null) this.#lost({ code: GOING_AWAY, reason: 'the page was left', by: 'client' });
  }

  // ---- what comes in ----

  #receive(text) {
    this.#lastHeard = this.#env.now();
    let envelope;
    try {
      envelope = JSON.parse(text);
    } catch {
      return;
    }
    if (envelope === null || typeof envelope !== 'object' || typeof envelope.type !== 'string') return;
    const { type, id } = envelope;
    if (type === 'heartbeat') {
      this.#timers.stop('verdict');
      return this.#setServerClock(envelope.timestamp);
    }
    if (type === 'ping') return void this.#write('{"type":"heartbeat"}');
    if (type === 'system') this.#setServerClock(envelope.data?.timestamp);
    if (this.#requests.answer(envelope) || this.#channels.answer(envelope)) return;

    if (this.#state === 'authenticating') {
      if (type === 'auth_success') return this.#authenticated(envelope);
      if (type === 'error' && (id === undefined || id === this.#authId)) return this.#signInRefused(envelope);
    }
    const turn = this.#turn;
    this.#push(envelope);
    if (turn !== this.#turn) return;
    // The server closes after these two; its Close may be lost on the way, so it isn't waited for.
    if (type === 'kicked') this.#finish({ code: KICKED, reason: envelope.message ?? '', by: 'server' });
    else if (type === 'auth_failed') this.#unauthorized(envelope.message ?? '');
    else if (type === 'draining') this.#drain(envelope.data?.reconnect_in_ms);
    else if (type === 'token_expiring' && envelope.data?.channel === undefined) this.#expiring(envelope.data?.expires_at);
  }

  /** A time that the server gives is a little old when it arrives, so the furthest ahead is the truest. */
  #setServerClock(timestamp) {
    if (!Number.isFinite(timestamp)) return;
    this.#serverClock = Math.max(this.#serverClock ?? -Infinity, timestamp - this.#env.now());
  }

  #expiring(expiresAt) {
    if (this.#state !== 'online' || typeof this.#options.token !== 'function') return;
    this.#renewal.expiring(expiresAt, this.#remaining(expiresAt));
  }

  #signInRefused(envelope) {
    const turn = this.#turn;
    this.#push(envelope);
    if (turn !== this.#turn) return;
    this.#closed(4000 + (envelope.code ?? 400), envelope.message ?? '');
  }

  /** Leaves at the time the server gave, or, if it closes earlier, comes back at that time. */
  #drain(reconnectInMs) {
    if (!Number.isFinite(reconnectInMs)) return;
    const wait = Math.min(Math.max(reconnectInMs, 0), MAX_DRAIN_WAIT_MS);
    this.#drainUntil = this.#env.now() + wait;
    this.#timers.start('drain', wait, () => this.#lost({ code: DRAINING, reason: 'the server is draining', by: 'server' }));
  }

  #push(envelope) {
    const { type, data } = envelope;
    if (data?.channel === LOBBY) {
      if ((type === 'message' || type === 'publication') && !this.#lobby.take(data.offset)) return;
      if (type === 'gap') this.#lobby.skip(data);
    } else if (!this.#channels.take(envelope)) {
      return;
    }
    this.#emit('push', envelope);
    this.#emit(PUSHES.has(type) ? type : 'unknown', envelope);
    this.#channels.deliver(envelope);
  }

  // ---- what goes out ----

  /** Keeps something to be published until it is acknowledged. */
  async #enqueue(type, data, timeoutMs) {
    // After the end this waits a moment: clean-ups and set-ups that follow each other connect again in the same breath.
    if (this.#state === 'closed') await null;
    if (this.#state === 'closed') throw this.#closedError(data.idempotency_key);
    const acknowledged = this.#requests.message(type, data, timeoutMs);
    this.#flush();
    return acknowledged;
  }

  #read(type, data, timeoutMs) {
    if (this.#state === 'closed') return Promise.reject(this.#closedError());
    return this.#requests.read(type, data, timeoutMs, this.#lastLoss);
  }

  #closedError(idempotencyKey) {
    return closedError('the connection has ended', this.ended, { idempotencyKey });
  }

  #flush() {
    if (this.#state === 'online') this.#requests.flush((channel) => this.#channels.isReady(channel));
  }

  #write(text) {
    if (this.#socket?.readyState !== OPEN) return false;
    try {
      this.#socket.send(text);
      return true;
    } catch {
      return false; // its `close` follows, or a sign of life is missed
    }
  }

  // ---- waits, states and events ----

  /** Full jitter: many clients cut at once come back spread over the whole interval. */
  #backoff(attempt) {
    const { backoffBaseMs, backoffMaxMs } = this.#options;
    return this.#env.random() * Math.min(backoffMaxMs, backoffBaseMs * 2 ** Math.min(attempt, 30));
  }

  /** After refused tokens: at least half of the pause passes before the function is asked again. */
  #patience(refusals) {
    const pause = Math.min(this.#options.backoffMaxMs, REFUSAL_PAUSE_MS * 2 ** Math.min(refusals - 1, 30));
    return (pause * (1 + this.#env.random())) / 2;
  }

  /** Tells of a new state; false if a listener has led elsewhere meanwhile. */
  #enter(state, info = {}) {
    const turn = this.#turn;
    const previous = this.#state;
    this.#state = state;
    this.#emit('state', { ...info, state, previous });
    return turn === this.#turn;
  }

  #emit(type, value) {
    this.#listeners.emit(type, value);
  }
}

/** How many lobby messages went by while away and are not told: 0 at the first sign-in, null when it can't be known. */
function missed(before, lobby) {
  if (!before) return 0;
  if (!lobby || lobby.epoch !== before.epoch || lobby.offset < before.offset) return null;
  return lobby.recovered ? 0 : lobby.offset - before.offset;
}
