// The browser's side of the uringcast protocol: one class, no dependencies, no build step.
//
// It owns the connection's life (sign-in, heartbeat, reconnecting), the messages not yet acknowledged, the subscriptions
// and the position in each channel. It knows nothing of the page: what happens is told through events. Who calls it:
// `client/demo/app.js`, and any page or Node program that imports it.
//
// Three rules hold everything together:
//  - `#turn` numbers the attempts to be connected. Every callback (socket, timer, token) carries the number it was made
//    under and does nothing once that has passed, so nothing left over can revive a client that has ended.
//  - Nothing but `auth` and `heartbeat` is transmitted outside the state `online`.
//  - What a channel brings passes its position on the way to the listeners, once: at or below it, it has been told already.

const DEFAULTS = {
  ping: true, // ask the server for `ping` messages: a page can't see ping frames
  recover: true, // after a reconnect, ask for what was missed in the lobby
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
/** Those that a subscription passes on to its own listeners. */
const CHANNEL_PUSHES = new Set(['message', 'publication', 'gap', 'join', 'leave', 'presence_digest']);

const LOBBY = 'lobby';
const CHANNEL_NAME = /^(?=.{1,200}$)[\w\-=@./#]+(:[\w\-=@.:/#]+)?$/;
const AUTH_CHANNELS = 128; // as many as one sign-in may ask for
const AUTH_CHANNELS_LENGTH = 262_144; // and as long as they may be together: a quarter of what the server takes by default

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
 * `connection_lost`, `no_token`. `outcome` is `refused` or `not_sent` when it surely had no effect, `unknown` when it may have had:
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

class Listeners {
  #byType = new Map();

  on(type, listener) {
    let set = this.#byType.get(type);
    if (!set) this.#byType.set(type, (set = new Set()));
    set.add(listener);
    return () => this.off(type, listener);
  }

  off(type, listener) {
    this.#byType.get(type)?.delete(listener);
  }

  emit(type, value) {
    for (const listener of [...(this.#byType.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        console.error(`uringcast: a listener of "${type}" threw`, error); // must not take the connection with it
      }
    }
  }
}

export class Uringcast {
  #url;
  #options;
  #env;
  #listeners = new Listeners();

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
  #renewedFor = 0; // the end of a token for which a newer one has been asked for

  #nextId = 1;
  #outbox = []; // messages without an acknowledgement, oldest first
  #asked = new Map(); // id → what awaits an answer on this connection
  #positions = new Map(); // channel → { epoch, offset }
  #subscriptions = new Map(); // channel → what `subscribe` makes; its `stage` begins again at `waiting` with each turn
  #askedAtSignIn = new Map(); // channel → the subscription that `auth` asked for: those answers carry no id

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
  position(channel = LOBBY) {
    const at = this.#positions.get(channel);
    return at ? { ...at } : null;
  }

  /** Listens for `state`, `push` (every server message that answers no request), one type of push, or `unknown`. Returns how to stop. */
  on(type, listener) {
    return this.#listeners.on(type, listener);
  }

  off(type, listener) {
    this.#listeners.off(type, listener);
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

  /** Ends the connection for good: no reconnect; subscriptions end, and what was queued is refused with `closed`. */
  disconnect() {
    if (this.#state !== 'closed') this.#finish({ code: 1000, reason: 'disconnected', by: 'client' });
  }

  /**
   * Sends a chat message to the lobby (or `channel`) and resolves with the acknowledgement's data. Offline it waits for the
   * next sign-in. Rejects with `queue_full` when `queueLimit` messages are unacknowledged already.
   */
  send(text, { channel, idempotencyKey = randomKey(), timeoutMs } = {}) {
    if (typeof text !== 'string') return Promise.reject(new TypeError('the text must be a string'));
    const data = { text, idempotency_key: idempotencyKey };
    if (channel !== undefined) data.channel = channel;
    return this.#enqueue('message', data, timeoutMs);
  }

  /**
   * Takes part in a channel from now on, over reconnects, until `unsubscribe()`, the server or the end of the connection
   * ends it. `token` is for channels that ask for one: a string, or a function that is asked anew each time. With
   * `recover` what was missed while away is told after a reconnect, before anything newer.
   */
  subscribe(channel, { token, recover = true } = {}) {
    if (typeof channel !== 'string' || !CHANNEL_NAME.test(channel)) throw new TypeError('no channel can have this name');
    if (channel === LOBBY) throw new TypeError('everyone is in the lobby already');
    const subscription = { channel, token, recover, stage: 'waiting', usable: undefined, attempt: 0, listeners: new Listeners() };
    subscription.ready = new Promise((resolve, reject) => Object.assign(subscription, { resolve, reject }));
    subscription.ready.catch(() => {}); // whoever doesn't wait for it hears of it by `error`
    const handle = new Subscription(subscription, {
      position: () => this.position(channel),
      publish: (data, timeoutMs) => this.#enqueue('publish', data, timeoutMs),
      request: (type, data) => this.request(type, data),
      unsubscribe: () => this.#unsubscribe(subscription),
    });
    if (this.#state === 'closed' || this.#subscriptions.has(channel)) {
      const already = new UringcastError(409, 'already subscribed', { outcome: 'not_sent' });
      this.#endSubscription(subscription, this.#state === 'closed' ? closed() : already);
    } else {
      this.#subscriptions.set(channel, subscription);
      if (this.#state !== 'idle' && this.#state !== 'waiting') this.#prepare(subscription);
    }
    return handle;
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
    for (const subscription of [...this.#subscriptions.values()]) this.#prepare(subscription);
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
    const at = recover ? this.position() : null;
    if (at) data.recover = at;
    const channels = this.#channelsToAskFor();
    if (channels.length > 0) data.channels = channels;
    this.#authId = String(this.#nextId++);
    this.#transmit({ type: 'auth', id: this.#authId, data });
    this.#after('deadline', connectTimeoutMs, () => this.#lost({ code: 1006, reason: 'no answer to the sign-in' }));
    this.#enter('authenticating');
  }

  #authenticated(envelope) {
    const turn = this.#turn;
    const { user, lobby } = envelope.data ?? {};
    const before = this.position();
    this.#clear('deadline');
    this.#tokenRefused = false;
    this.#onlineSince = this.#env.now();
    this.user = user ?? null;
    if (lobby) this.#resume(LOBBY, lobby);
    else this.#positions.delete(LOBBY);

    const previous = this.#state;
    this.#state = 'online'; // before the listeners run: what they send must queue up behind what waited
    for (const { channel, stage } of this.#askedAtSignIn.values()) if (stage === 'ended') this.#leave(channel);
    for (const subscription of this.#subscriptions.values()) if (subscription.stage === 'prepared') this.#askFor(subscription);
    this.#flush();
    this.#beat();
    this.#push(envelope);
    if (turn !== this.#turn) return;
    this.#emit('state', { state: 'online', previous, missed: missed(before, lobby) });
    if (turn === this.#turn && lobby) this.#catchUp(LOBBY, lobby);
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

  /**
   * The token is about to expire: asks for a newer one, once for each end that the server names, and shows it. Without
   * one, or with one that is refused, the server ends the connection, and the next sign-in asks again.
   */
  async #renew(expiresAt) {
    const { token: source } = this.#options;
    if (typeof source !== 'function' || !(expiresAt > this.#renewedFor)) return;
    this.#renewedFor = expiresAt;
    const turn = this.#turn;
    let attempt = 0;
    const tryOnce = async () => {
      try {
        const token = await source({ refused: false });
        if (turn !== this.#turn) return;
        await this.request('refresh', { token });
      } catch (error) {
        const mayWork = error instanceof UringcastError ? error.outcome === 'unknown' : !error?.final;
        if (turn === this.#turn && mayWork) this.#after('renew', this.#backoff(attempt++), tryOnce);
      }
    };
    await tryOnce();
  }

  #lost(info) {
    const { stableMs, maxAttempts } = this.#options;
    const now = this.#env.now();
    if (this.#onlineSince !== null && now - this.#onlineSince >= stableMs) this.#attempt = 0;
    if (this.#attempt >= maxAttempts) return this.#finish({ ...info, by: 'client' });

    const retryInMs = this.#drainUntil === null ? this.#backoff(this.#attempt) : Math.max(0, this.#drainUntil - now);
    this.#attempt += 1;
    this.#end();
    this.#after('wait', retryInMs, () => this.#open());
    this.#enter('waiting', { ...info, retryInMs, attempt: this.#attempt });
  }

  #finish(ended) {
    this.#end();
    this.ended = ended;
    const subscriptions = [...this.#subscriptions.values()];
    this.#subscriptions.clear();
    const left = this.#outbox.splice(0);
    for (const entry of left) {
      this.#env.clearTimeout(entry.lifetime);
      entry.reject(new UringcastError('closed', 'the connection has ended', doubt(entry)));
    }
    this.#enter('closed', ended);
    for (const subscription of subscriptions) this.#endSubscription(subscription, closed());
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
    this.#renewedFor = 0;
    this.#askedAtSignIn.clear();
    for (const subscription of this.#subscriptions.values()) subscription.stage = 'waiting';

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

  // ---- subscriptions ----
  //
  // A subscription is `waiting` (for its token, or for the next attempt), `prepared` to be asked for, `asked` for,
  // `subscribed`, or `ended`. Asking has no deadline here: the server always answers, or the connection ends.

  /** Gets the token, and asks for the subscription: with the sign-in, or at once if that is over. */
  async #prepare(subscription) {
    const turn = this.#turn;
    const { channel, token } = subscription;
    subscription.usable = token;
    if (typeof token === 'function') {
      let failure;
      try {
        subscription.usable = await token({ channel });
      } catch (error) {
        failure = error;
      }
      if (turn !== this.#turn || subscription.stage !== 'waiting') return;
      if (failure) {
        const error = new UringcastError('no_token', `no token: ${failure?.message ?? failure}`, { outcome: 'not_sent' });
        return failure?.final ? this.#endSubscription(subscription, error) : this.#retry(subscription, error);
      }
    }
    subscription.stage = 'prepared';
    if (this.#state === 'online') this.#askFor(subscription);
  }

  #askFor(subscription) {
    const turn = this.#turn;
    const entry = this.#entry(
      'subscribe',
      this.#wanted(subscription),
      Infinity,
      (data) => this.#subscribed(subscription, data),
      (error) => turn === this.#turn && this.#refused(subscription, error),
    );
    if (this.#ask(entry)) subscription.stage = 'asked';
  }

  /** For `auth`: whatever is prepared, as far as it fits. The rest is asked for after it. */
  #channelsToAskFor() {
    const channels = [];
    let room = AUTH_CHANNELS_LENGTH;
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.stage !== 'prepared') continue;
      const wanted = this.#wanted(subscription);
      room -= JSON.stringify(wanted).length;
      if (room < 0 || channels.length === AUTH_CHANNELS) break;
      channels.push(wanted);
      subscription.stage = 'asked';
      this.#askedAtSignIn.set(subscription.channel, subscription);
    }
    return channels;
  }

  #wanted({ channel, usable, recover }) {
    const wanted = { channel };
    if (typeof usable === 'string' && usable !== '') wanted.token = usable;
    const at = recover ? this.position(channel) : null;
    if (at) wanted.recover = at;
    return wanted;
  }

  #subscribed(subscription, data) {
    if (subscription.stage !== 'asked') return; // it has been given up meanwhile
    const { channel, listeners } = subscription;
    subscription.stage = 'subscribed';
    subscription.attempt = 0;
    this.#resume(channel, data);
    this.#flush();
    subscription.resolve(data);
    listeners.emit('subscribed', { type: 'subscribed', code: 200, data });
    if (subscription.stage === 'subscribed') this.#catchUp(channel, data);
  }

  /** What the server can't do now it may do later; what it refuses it won't. */
  #refused(subscription, error) {
    if (subscription.stage !== 'asked') return;
    if (error.code >= 500) this.#retry(subscription, error);
    else this.#endSubscription(subscription, error);
  }

  #retry(subscription, error) {
    subscription.stage = 'waiting';
    this.#after(`subscribe ${subscription.channel}`, this.#backoff(subscription.attempt), () => this.#prepare(subscription));
    subscription.attempt += 1;
    subscription.listeners.emit('error', error);
  }

  /** The channel's token has expired: it is subscribed anew with another, from where it was. */
  #resubscribe(subscription) {
    subscription.stage = 'waiting';
    this.#prepare(subscription);
  }

  #unsubscribe(subscription) {
    const { channel, stage } = subscription;
    if (stage === 'ended') return;
    this.#endSubscription(subscription);
    if (stage === 'asked' || stage === 'subscribed') this.#leave(channel);
  }

  /** Before the sign-in is over this does nothing; `#authenticated` comes back to it. */
  #leave(channel) {
    this.request('unsubscribe', { channel }).catch(() => {}); // then it isn't subscribed anyway
  }

  /** Nothing more is told of it but its end, and why: an error, or the server's `unsubscribed`. */
  #endSubscription(subscription, error, push) {
    const { channel, stage, listeners } = subscription;
    if (stage === 'ended') return;
    subscription.stage = 'ended';
    if (this.#subscriptions.get(channel) === subscription) {
      this.#subscriptions.delete(channel);
      this.#positions.delete(channel);
      this.#clear(`subscribe ${channel}`);
      this.#flush(); // what waited for the subscription is for the server to refuse
    }
    subscription.reject(error ?? closed('unsubscribed'));
    if (error && error.code !== 'closed') listeners.emit('error', error);
    listeners.emit('unsubscribed', push ?? { type: 'unsubscribed', code: error?.code ?? 200, data: { channel } });
  }

  /** Takes the position that the server's answer gives; if it holds what was missed, that is still to be told. */
  #resume(channel, { epoch, offset, recovered }) {
    const before = this.#positions.get(channel);
    this.#positions.set(channel, { epoch, offset: recovered && before ? before.offset : offset });
  }

  /** Tells what was missed in a channel, in order, as if it came now. */
  #catchUp(channel, { offset, publications = [] }) {
    const turn = this.#turn;
    const at = this.#positions.get(channel);
    for (const { type = 'message', ...data } of publications) {
      this.#push({ type, code: 200, data });
      if (turn !== this.#turn || this.#positions.get(channel) !== at) return; // a listener has left, or unsubscribed
    }
    this.#advance(channel, offset);
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
    const channel = envelope.data?.channel;
    if (id === undefined && (type === 'subscribed' || type === 'error') && this.#askedAtSignIn.has(channel)) {
      const subscription = this.#askedAtSignIn.get(channel);
      this.#askedAtSignIn.delete(channel);
      if (type === 'subscribed') this.#subscribed(subscription, envelope.data);
      else this.#refused(subscription, refusal(envelope));
      return;
    }

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
    else if (type === 'token_expiring' && this.#state === 'online') this.#renew(envelope.data?.expires_at);
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
    entry.reject(refusal(envelope, entry));
  }

  #push(envelope) {
    const { type, data } = envelope;
    const channel = data?.channel;
    if (type === 'message' || type === 'publication') {
      if (data?.offset <= this.#positions.get(channel)?.offset) return; // told already
      this.#advance(channel, data?.offset);
    } else if (type === 'gap') {
      this.#advance(channel, data?.to, data?.epoch);
    }
    const subscription = this.#subscriptions.get(channel);
    this.#emit('push', envelope);
    this.#emit(PUSHES.has(type) ? type : 'unknown', envelope);
    if (subscription?.stage !== 'subscribed') return;
    if (CHANNEL_PUSHES.has(type)) subscription.listeners.emit(type, envelope);
    else if (type !== 'unsubscribed') return;
    else if (envelope.code === 401 && typeof subscription.token === 'function') this.#resubscribe(subscription);
    else this.#endSubscription(subscription, undefined, envelope);
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

  /** Keeps something to be published until it is acknowledged. */
  #enqueue(type, data, timeoutMs) {
    const idempotencyKey = data.idempotency_key;
    if (this.#state === 'closed') return Promise.reject(closed(undefined, idempotencyKey));
    if (this.#outbox.length >= this.#options.queueLimit) {
      return Promise.reject(new UringcastError('queue_full', 'too many messages are waiting', { outcome: 'not_sent', idempotencyKey }));
    }
    return new Promise((resolve, reject) => {
      const entry = this.#entry(type, data, timeoutMs, resolve, reject);
      entry.everSent = false;
      entry.lifetime = this.#env.setTimeout(() => this.#expire(entry), this.#options.messageLifetimeMs);
      this.#outbox.push(entry);
      this.#flush();
    });
  }

  /** Transmits what has not been, oldest first, but to no channel that is not subscribed yet: it would be refused. */
  #flush() {
    if (this.#state !== 'online') return;
    for (const entry of this.#outbox) {
      const stage = this.#subscriptions.get(entry.data.channel)?.stage ?? 'subscribed';
      if (entry.sent || stage !== 'subscribed') continue;
      if (!this.#ask(entry)) return;
      entry.everSent = true;
    }
  }

  #ask(entry) {
    if (!this.#transmit({ type: entry.type, id: entry.id, data: entry.data })) return false;
    entry.sent = true;
    this.#asked.set(entry.id, entry);
    if (entry.timeoutMs === Infinity) return true;
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

  /** Full jitter: many clients cut at once come back spread over the whole interval. */
  #backoff(attempt) {
    const { backoffBaseMs, backoffMaxMs } = this.#options;
    return this.#env.random() * Math.min(backoffMaxMs, backoffBaseMs * 2 ** Math.min(attempt, 30));
  }

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
    this.#listeners.emit(type, value);
  }
}

/** One channel, as `Uringcast.subscribe` gives it. It holds nothing: what it knows and does is the client's. */
export class Subscription {
  #of;
  #does;

  constructor(of, does) {
    this.#of = of;
    this.#does = does;
  }

  get channel() {
    return this.#of.channel;
  }

  /** `subscribing` (again after each reconnect), `subscribed` or `ended`, which is for good. */
  get state() {
    const { stage } = this.#of;
    return stage === 'subscribed' || stage === 'ended' ? stage : 'subscribing';
  }

  /** Resolves when the channel is subscribed for the first time, with the answer's data; rejects if it never is. */
  get ready() {
    return this.#of.ready;
  }

  /** The last place seen in the channel, `{ epoch, offset }`, or null. */
  get position() {
    return this.#does.position();
  }

  /**
   * Listens for `publication`, `message`, `gap`, `join`, `leave`, `presence_digest`, `subscribed` (each time, before what
   * was missed), `unsubscribed` (the end) or `error` (a `UringcastError`). Returns how to stop.
   */
  on(type, listener) {
    return this.#of.listeners.on(type, listener);
  }

  off(type, listener) {
    this.#of.listeners.off(type, listener);
  }

  /** Publishes any JSON and resolves with the acknowledgement's data. Waits and repeats as `send` does, in one queue with it. */
  publish(data, { key, idempotencyKey = randomKey(), timeoutMs } = {}) {
    if (this.state === 'ended') return Promise.reject(closed('the subscription has ended', idempotencyKey));
    let copy; // as it is now: what is sent again under the same key must be the same
    try {
      copy = JSON.parse(JSON.stringify(data));
    } catch (error) {
      return Promise.reject(new TypeError(`this is no JSON: ${error.message}`));
    }
    const publication = { channel: this.channel, data: copy, idempotency_key: idempotencyKey };
    if (key !== undefined) publication.key = key;
    return this.#does.publish(publication, timeoutMs);
  }

  /** What the channel's history holds after `since` (a position), or with `reverse` before it: `{ epoch, offset, publications }`. */
  history({ since, limit, reverse } = {}) {
    return this.#request('history', { since, limit, reverse });
  }

  /** One page of who is in the channel: `{ count, members, cursor? }`. */
  presence({ cursor, limit } = {}) {
    return this.#request('presence', { cursor, limit });
  }

  /** Ends the subscription: from here on none of its publications is told. */
  unsubscribe() {
    this.#does.unsubscribe();
  }

  /** What the server answers to subscribers only. */
  #request(type, data) {
    if (this.state === 'subscribed') return this.#does.request(type, { channel: this.channel, ...data });
    return Promise.reject(new UringcastError('offline', 'not subscribed now', { outcome: 'not_sent' }));
  }
}

/** What a failed request may have done on the server. */
function doubt(entry) {
  const sent = entry.everSent ?? true;
  return { outcome: sent ? 'unknown' : 'not_sent', idempotencyKey: entry.data.idempotency_key };
}

function closed(message = 'the connection has ended', idempotencyKey) {
  return new UringcastError('closed', message, { outcome: 'not_sent', idempotencyKey });
}

/** A server's `error`, and what it leaves open. */
function refusal({ code, message = 'refused' }, entry) {
  return new UringcastError(code, message, { ...(entry && doubt(entry)), outcome: code === 504 ? 'unknown' : 'refused' });
}

/** How many lobby messages went by while away and are not told: 0 at the first sign-in, null when it can't be known. */
function missed(before, lobby) {
  if (!before) return 0;
  if (!lobby || lobby.epoch !== before.epoch || lobby.offset < before.offset) return null;
  return lobby.recovered ? 0 : lobby.offset - before.offset;
}

/** 128 random bits. Not `randomUUID`, which plain-http pages don't have. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
