// The browser's side of the uringcast protocol: one class, no dependencies, no build step.
//
// It owns the connection's life (sign-in, heartbeat, reconnecting), the messages not yet acknowledged, and the position
// in each channel. It knows nothing of the page: what happens is told through events. Who calls it: `client/demo/app.js`,
// and any page or Node program that imports it.
//
// Two rules hold everything together:
//  - `#turn` numbers the attempts to be connected. Every callback (socket, timer, token) carries the number it was made
//    under and does nothing once that has passed, so nothing left over can revive a client that has ended.
//  - Nothing but `auth` and `heartbeat` is transmitted outside the state `online`.

const DEFAULTS = {
  ping: true, // ask the server for `ping` messages: a page can't see ping frames
  recover: false, // ask at sign-in for what the lobby missed
  resend: true, // after a reconnect, repeat what was sent and not acknowledged, under its idempotency key
  protocols: ['uringcast.v1'],
  queueLimit: 256, // messages not yet acknowledged, waiting ones included
  messageLifetimeMs: 240_000, // shorter than the five minutes for which the server knows an idempotency key
  requestTimeoutMs: 10_000, // from transmitting a request to its answer
  connectTimeoutMs: 10_000, // for each of: the token, the handshake, the sign-in
  heartbeatIntervalMs: 25_000, // of hearing nothing
  heartbeatTimeoutMs: 10_000,
  backoffBaseMs: 500,
  backoffMaxMs: 30_000,
  stableMs: 10_000, // an online connection that lived this long starts the backoff afresh
  maxAttempts: Infinity, // reconnects in a row
};

/** What the server sends, apart from the answers, which go to whoever asked. Any other type is given to `unknown`. */
const PUSHES = new Set([
  'system', 'auth_success', 'auth_failed', 'kicked', 'error', 'message', 'user_online', 'user_offline', 'publication',
  'gap', 'join', 'leave', 'presence_digest', 'token_expiring', 'unsubscribed', 'draining',
]);

const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);
const UNAUTHORIZED = 4401;
const KICKED = 4409;
const DRAINING = 4503;
const NO_SIGN_OF_LIFE = 4504;
const MAX_DRAIN_WAIT_MS = 600_000;
const OPEN = 1; // WebSocket.OPEN

/** Whether a connection closed with this code is not to be opened again by itself. */
export function isFinal(code) {
  return FINAL_CODES.has(code) || (code >= 4400 && code <= 4499);
}

/**
 * Why a request failed. `code` is the server's number, or one of `queue_full`, `offline`, `closed`, `expired`, `timeout`,
 * `connection_lost`. `outcome` is `refused` or `not_sent` when it surely had no effect, `unknown` when it may have had:
 * then sending it again with the same `idempotencyKey` is safe.
 */
export class UringcastError extends Error {
  constructor(code, message, { outcome, idempotencyKey } = {}) {
    super(message);
    this.name = 'UringcastError';
    this.code = code;
    this.outcome = outcome;
    this.idempotencyKey = idempotencyKey;
  }
}

export class Uringcast {
  #url;
  #options;
  #env;
  #listeners = new Map();

  #state = 'idle';
  #turn = 0;
  #socket = null;
  #timers = new Map(); // name → handle; `#end` clears them all, so none outlives its turn
  #attempt = 0;
  #tokenRefused = false;
  #onlineSince = null;
  #lastHeard = 0;
  #drainUntil = null;
  #authId = null;

  #nextId = 1;
  #outbox = []; // messages without an acknowledgement, oldest first
  #asked = new Map(); // id → what awaits an answer on this connection
  #positions = new Map(); // channel → { epoch, offset }

  /** The signed-in user, as the server names it; null before the first sign-in. */
  user = null;
  /** Why the client ended: `{ code, reason, by: 'client' | 'server' }`; null while it has not. */
  ended = null;

  constructor(url, { env = {}, ...options } = {}) {
    this.#url = String(url);
    this.#options = { ...DEFAULTS, ...options };
    this.#env = {
      WebSocket: globalThis.WebSocket,
      setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
      clearTimeout: (handle) => globalThis.clearTimeout(handle),
      now: () => performance.now(),
      random: Math.random,
      ...env,
    };
  }

  /** `idle`, `connecting`, `authenticating`, `online`, `waiting` (to reconnect) or `closed` (for good, unless told to connect). */
  get state() {
    return this.#state;
  }

  /** Messages not yet acknowledged. */
  get queued() {
    return this.#outbox.length;
  }

  /** The last place seen in a channel, `{ epoch, offset }`, or null. */
  position(channel = 'lobby') {
    const at = this.#positions.get(channel);
    return at ? { ...at } : null;
  }

  /** Listens for `state`, `push` (every server message that answers no request), one type of push, or `unknown`. Returns how to stop. */
  on(type, listener) {
    let set = this.#listeners.get(type);
    if (!set) this.#listeners.set(type, (set = new Set()));
    set.add(listener);
    return () => this.off(type, listener);
  }

  off(type, listener) {
    this.#listeners.get(type)?.delete(listener);
  }

  /** Connects; while waiting to reconnect, tries at once; after the end, starts anew. */
  connect() {
    if (this.#state === 'idle' || this.#state === 'closed') {
      this.#attempt = 0;
      this.#tokenRefused = false;
      this.#positions.clear(); // a new sign-in may be another user, and has missed nothing
      this.user = null;
      this.ended = null;
    } else if (this.#state !== 'waiting') {
      return this;
    }
    this.#open();
    return this;
  }

  /** Ends the connection for good: no reconnect, and what was queued is refused with `closed`. */
  disconnect() {
    if (this.#state !== 'closed') this.#finish({ code: 1000, reason: 'disconnected', by: 'client' });
  }

  /**
   * Sends a chat message to the lobby (or `channel`) and resolves with the acknowledgement's data. Offline it waits for the
   * next sign-in. Rejects with `queue_full` when `queueLimit` messages are unacknowledged already.
   */
  send(text, { channel, idempotencyKey = randomKey(), timeoutMs } = {}) {
    if (typeof text !== 'string') return Promise.reject(new TypeError('the text must be a string'));
    if (this.#state === 'closed') {
      return Promise.reject(new UringcastError('closed', 'the connection has ended', { outcome: 'not_sent', idempotencyKey }));
    }
    if (this.#outbox.length >= this.#options.queueLimit) {
      return Promise.reject(new UringcastError('queue_full', 'too many messages are waiting', { outcome: 'not_sent', idempotencyKey }));
    }
    const data = { text, idempotency_key: idempotencyKey };
    if (channel !== undefined) data.channel = channel;
    return new Promise((resolve, reject) => {
      const entry = this.#entry('message', data, timeoutMs, resolve, reject);
      entry.everSent = false;
      entry.lifetime = this.#env.setTimeout(() => this.#expire(entry), this.#options.messageLifetimeMs);
      this.#outbox.push(entry);
      this.#flush();
    });
  }

  /** Asks the server something now and resolves with the answer's data. Rejects with `offline` unless online; never repeated. */
  request(type, data = {}, { timeoutMs } = {}) {
    return new Promise((resolve, reject) => {
      const entry = this.#entry(type, data, timeoutMs, resolve, reject);
      if (this.#state !== 'online' || !this.#ask(entry)) {
        reject(new UringcastError('offline', 'not connected', { outcome: 'not_sent' }));
      }
    });
  }

  /** One page of who is online: `{ count, members, cursor? }`. */
  users({ cursor, limit } = {}) {
    const data = {};
    if (cursor !== undefined) data.cursor = cursor;
    if (limit !== undefined) data.limit = limit;
    return this.request('users', data);
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
    const turn = this.#end();
    if (!this.#enter('connecting')) return;
    const { token: source, connectTimeoutMs, protocols } = this.#options;
    this.#after('deadline', connectTimeoutMs, () => this.#lost({ code: 1006, reason: 'no connection in time' }));

    let token = source;
    if (typeof source === 'function') {
      try {
        token = await source({ refused: this.#tokenRefused });
      } catch (error) {
        if (turn !== this.#turn) return;
        const reason = `no token: ${error?.message ?? error}`;
        return error?.final ? this.#finish({ code: UNAUTHORIZED, reason, by: 'client' }) : this.#lost({ code: 1006, reason });
      }
      if (turn !== this.#turn) return;
      this.#after('deadline', connectTimeoutMs, () => this.#lost({ code: 1006, reason: 'no connection in time' }));
    }
    if (typeof token !== 'string' || token === '') {
      return this.#finish({ code: UNAUTHORIZED, reason: 'there is no token', by: 'client' });
    }

    let socket;
    try {
      socket = new this.#env.WebSocket(this.#url, protocols);
    } catch (error) {
      // A URL that can't be used now can't be used later.
      return this.#finish({ code: 1006, reason: String(error?.message ?? error), by: 'client' });
    }
    this.#socket = socket;
    // The callbacks stay on the socket when we leave it (some implementations throw an unheard `error`); `turn` mutes them.
    socket.onopen = () => turn === this.#turn && this.#authenticate(token);
    socket.onmessage = (event) => turn === this.#turn && this.#receive(event.data);
    socket.onclose = (event) => turn === this.#turn && this.#closed(event.code, event.reason);
    socket.onerror = () => {}; // says nothing, and `close` follows
  }

  #authenticate(token) {
    const { ping, recover, connectTimeoutMs } = this.#options;
    const data = { token };
    if (ping) data.ping = true;
    const at = recover ? this.#positions.get('lobby') : undefined;
    if (at) data.recover = { ...at };
    this.#authId = String(this.#nextId++);
    this.#transmit({ type: 'auth', id: this.#authId, data });
    this.#after('deadline', connectTimeoutMs, () => this.#lost({ code: 1006, reason: 'no answer to the sign-in' }));
    this.#enter('authenticating');
  }

  #authenticated(envelope) {
    const turn = this.#turn;
    const { user, lobby } = envelope.data ?? {};
    const before = this.#positions.get('lobby');
    this.#clear('deadline');
    this.#tokenRefused = false;
    this.#onlineSince = this.#env.now();
    this.user = user ?? null;
    if (lobby) this.#positions.set('lobby', { epoch: lobby.epoch, offset: lobby.offset });
    else this.#positions.delete('lobby');

    const previous = this.#state;
    this.#state = 'online'; // before the listeners run: what they send must queue up behind what waited
    this.#flush();
    this.#beat();
    this.#push(envelope);
    if (turn !== this.#turn) return;
    this.#emit('state', { state: 'online', previous, missed: missed(before, lobby) });
    for (const publication of lobby?.publications ?? []) {
      if (turn !== this.#turn) return;
      const { type = 'message', ...data } = publication;
      this.#push({ type, code: 200, data });
    }
  }

  /** The server, or the way to it, closed the socket. */
  #closed(code, reason) {
    if (code === UNAUTHORIZED) this.#unauthorized(reason);
    else if (isFinal(code)) this.#finish({ code, reason, by: 'server' });
    else this.#lost({ code, reason });
  }

  /** A refused token is worth one more try if there is somebody to ask for a new one. */
  #unauthorized(reason) {
    if (typeof this.#options.token === 'function' && !this.#tokenRefused) {
      this.#tokenRefused = true;
      this.#lost({ code: UNAUTHORIZED, reason });
    } else {
      this.#finish({ code: UNAUTHORIZED, reason, by: 'server' });
    }
  }

  #lost(info) {
    const { stableMs, maxAttempts, backoffBaseMs, backoffMaxMs } = this.#options;
    const now = this.#env.now();
    if (this.#onlineSince !== null && now - this.#onlineSince >= stableMs) this.#attempt = 0;
    if (this.#attempt >= maxAttempts) return this.#finish({ ...info, by: 'client' });

    // Full jitter: many clients cut at once come back spread over the whole interval.
    const ceiling = Math.min(backoffMaxMs, backoffBaseMs * 2 ** Math.min(this.#attempt, 30));
    const retryInMs = this.#drainUntil === null ? this.#env.random() * ceiling : Math.max(0, this.#drainUntil - now);
    this.#attempt += 1;
    this.#end();
    this.#after('wait', retryInMs, () => this.#open());
    this.#enter('waiting', { ...info, retryInMs, attempt: this.#attempt });
  }

  #finish(ended) {
    this.#end();
    this.ended = ended;
    const left = this.#outbox.splice(0);
    for (const entry of left) {
      this.#env.clearTimeout(entry.lifetime);
      entry.reject(new UringcastError('closed', 'the connection has ended', doubt(entry)));
    }
    this.#enter('closed', ended);
  }

  /** Leaves the present connection or attempt, whatever it is: from here on nothing of it is heard. */
  #end() {
    this.#turn += 1;
    for (const name of [...this.#timers.keys()]) this.#clear(name);
    const socket = this.#socket;
    this.#socket = null;
    this.#onlineSince = null;
    this.#drainUntil = null;
    this.#authId = null;

    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const entry of asked) {
      this.#env.clearTimeout(entry.timer);
      entry.sent = false;
      if (entry.lifetime !== undefined && this.#options.resend) continue; // it stays in the outbox
      this.#forget(entry);
      entry.reject(new UringcastError('connection_lost', 'the connection was lost', doubt(entry)));
    }
    try {
      socket?.close(1000);
    } catch {
      // It may be beyond closing, and it is not ours any more.
    }
    return this.#turn;
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
    if (type === 'heartbeat') return;
    if (type === 'ping') return void this.#transmit({ type: 'heartbeat' });
    if (id !== undefined && this.#asked.has(id)) return this.#answer(this.#asked.get(id), envelope);

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
  }

  #signInRefused(envelope) {
    const turn = this.#turn;
    this.#push(envelope);
    if (turn !== this.#turn) return;
    const info = { code: 4000 + (envelope.code ?? 400), reason: envelope.message ?? '' };
    if (info.code === UNAUTHORIZED) this.#unauthorized(info.reason);
    else if (isFinal(info.code)) this.#finish({ ...info, by: 'server' });
    else this.#lost(info);
  }

  /** Leaves at the time the server gave, or, if it closes earlier, comes back at that time. */
  #drain(reconnectInMs) {
    if (!Number.isFinite(reconnectInMs)) return;
    const wait = Math.min(Math.max(reconnectInMs, 0), MAX_DRAIN_WAIT_MS);
    this.#drainUntil = this.#env.now() + wait;
    this.#after('drain', wait, () => this.#lost({ code: DRAINING, reason: 'the server is draining' }));
  }

  #answer(entry, envelope) {
    this.#forget(entry);
    if (envelope.type !== 'error') return entry.resolve(envelope.data ?? {});
    const outcome = envelope.code === 504 ? 'unknown' : 'refused';
    entry.reject(new UringcastError(envelope.code, envelope.message ?? 'refused', { ...doubt(entry), outcome }));
  }

  #push(envelope) {
    const { type, data } = envelope;
    if (type === 'message' || type === 'publication') this.#advance(data?.channel, data?.offset);
    else if (type === 'gap') this.#advance(data?.channel, data?.to, data?.epoch);
    this.#emit('push', envelope);
    this.#emit(PUSHES.has(type) ? type : 'unknown', envelope);
  }

  /** A position only grows within its epoch; only a gap or a new sign-in brings a new epoch. */
  #advance(channel, offset, epoch) {
    const at = this.#positions.get(channel);
    if (!at || !Number.isSafeInteger(offset)) return;
    if (epoch !== undefined && epoch !== at.epoch) this.#positions.set(channel, { epoch, offset });
    else if (offset > at.offset) at.offset = offset;
  }

  // ---- what goes out ----

  #entry(type, data, timeoutMs, resolve, reject) {
    const id = String(this.#nextId++);
    return { id, type, data, timeoutMs: timeoutMs ?? this.#options.requestTimeoutMs, resolve, reject, sent: false };
  }

  /** Transmits what has not been, oldest first. */
  #flush() {
    if (this.#state !== 'online') return;
    for (const entry of this.#outbox) {
      if (!entry.sent && !this.#ask(entry)) return;
      entry.everSent = true;
    }
  }

  #ask(entry) {
    if (!this.#transmit({ type: entry.type, id: entry.id, data: entry.data })) return false;
    entry.sent = true;
    this.#asked.set(entry.id, entry);
    entry.timer = this.#env.setTimeout(() => {
      this.#forget(entry);
      entry.reject(new UringcastError('timeout', 'no answer in time', doubt(entry)));
    }, entry.timeoutMs);
    return true;
  }

  #expire(entry) {
    this.#forget(entry);
    entry.reject(new UringcastError('expired', 'it could not be sent in time', doubt(entry)));
  }

  #forget(entry) {
    this.#env.clearTimeout(entry.timer);
    this.#env.clearTimeout(entry.lifetime);
    this.#asked.delete(entry.id);
    const index = this.#outbox.indexOf(entry);
    if (index >= 0) this.#outbox.splice(index, 1);
  }

  #transmit(envelope) {
    if (this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(JSON.stringify(envelope));
    return true;
  }

  /** After a silence asks for a sign of life; without one the connection is dead, whatever the socket believes. */
  #beat() {
    const { heartbeatIntervalMs, heartbeatTimeoutMs } = this.#options;
    const silence = this.#env.now() - this.#lastHeard;
    const wait = heartbeatIntervalMs - silence;
    if (wait > 0) return this.#after('beat', wait, () => this.#beat());

    const heard = this.#lastHeard;
    this.#transmit({ type: 'heartbeat' });
    this.#after('beat', heartbeatTimeoutMs, () => {
      if (this.#lastHeard === heard) this.#lost({ code: NO_SIGN_OF_LIFE, reason: 'no sign of life' });
      else this.#beat();
    });
  }

  // ---- timers, states and events ----

  #after(name, ms, run) {
    this.#clear(name);
    this.#timers.set(name, this.#env.setTimeout(() => {
      this.#timers.delete(name);
      run();
    }, ms));
  }

  #clear(name) {
    const handle = this.#timers.get(name);
    if (handle !== undefined) this.#env.clearTimeout(handle);
    this.#timers.delete(name);
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
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        console.error(`uringcast: a listener of "${type}" threw`, error); // must not take the connection with it
      }
    }
  }
}

/** What a failed request may have done on the server. */
function doubt(entry) {
  const sent = entry.everSent ?? true;
  return { outcome: sent ? 'unknown' : 'not_sent', idempotencyKey: entry.data.idempotency_key };
}

/** How many lobby messages went by while away: 0 at the first sign-in, null when it can't be known. */
function missed(before, lobby) {
  if (!before) return 0;
  if (!lobby || lobby.epoch !== before.epoch || lobby.recovered === false) return null;
  return lobby.recovered ? 0 : Math.max(0, lobby.offset - before.offset);
}

/** 128 random bits. Not `randomUUID`, which plain-http pages don't have. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
