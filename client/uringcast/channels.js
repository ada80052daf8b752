// The channels that are subscribed. One `Channel` is what the server knows; each `subscribe()` gives a `Subscription`, a
// handle on it. The channel is left with its last handle.
//
// A channel is `waiting` (for its token, or for the next attempt to connect), `prepared` to be asked for, `asked` for,
// `subscribed`, or `left`. Asking has no deadline here: the server always answers, or the connection ends.

import { UringcastError, closedError, refusalError } from './errors.js';
import { Listeners, TokenSource } from './platform.js';
import { checkPosition, Progress } from './position.js';
import { Renewal } from './renewal.js';
import { Subscription } from './subscription.js';

const LOBBY = 'lobby';
const CHANNEL_NAME = /^(?=.{1,200}$)[\w\-=@.#/]+(:[\w\-=@.:/#]+)?$/;
const SIGN_IN_CHANNELS = 128; // as many as one sign-in may ask for
const SIGN_IN_LENGTH = 262_144; // and as long as they may be together: a quarter of what the server takes by default
const TOKEN_PAUSE_MS = 1_000; // between two subscriptions of one channel whose token ends at once
const MAX_REFUSALS = 3; // of one channel's tokens in a row: the server ends a connection that shows too many bad ones
const HELD = 1_000; // envelopes kept for one handle while its history is fetched
const PAGE = 1_000; // the most that the server gives at once
const UNAUTHENTICATED = 401;
const FORBIDDEN = 403;

/** What a subscription passes on to its own listeners. */
const CHANNEL_PUSHES = new Set(['message', 'publication', 'gap', 'join', 'leave', 'presence_digest']);

class Channel {
  stage = 'waiting';
  handles = new Set();
  usableToken = undefined;
  attempt = 0; // retries in a row
  refusals = 0; // tokens refused in a row
  subscribedAt = -Infinity;
  recovering = false; // whether the present request asks to recover
  answer = null; // the last `subscribed`, without what was missed

  constructor(name, env, progress, renew) {
    this.name = name;
    this.progress = progress;
    this.tokens = new TokenSource(env);
    this.renewal = new Renewal(env, (how) => renew(this, how));
  }

  /** The token of the handle that came last with one: a string or a function. */
  get token() {
    return [...this.handles].map(({ token }) => token).filter((token) => token !== undefined).at(-1);
  }

  get recover() {
    return [...this.handles].some(({ recover }) => recover);
  }
}

export class Channels {
  #link;
  #byName = new Map();
  #askedAtSignIn = new Map(); // name → the channel that `auth` asked for: those answers carry no id

  /**
   * `link` is what the client gives: `env`, `timers`, `requests`, `turn()`, `isOnline()`, `newKey()`, `backoff(attempt)`,
   * `patience(refusals)`, `remaining(expiresAt)`, `showToken(token, channel, accepted)`, `flush()`, `push(envelope)`,
   * `publish(data, timeoutMs)` and `read(type, data, timeoutMs)`.
   */
  constructor(link) {
    this.#link = link;
  }

  subscribe(name, { token, recover = true } = {}, begin) {
    if (typeof name !== 'string' || !CHANNEL_NAME.test(name)) throw new TypeError('no channel can have this name');
    if (name === LOBBY) throw new TypeError('everyone is in the lobby already');
    const from = recover !== null && typeof recover === 'object' ? checkPosition(recover) : null;
    let channel = this.#byName.get(name);
    const joins = channel !== undefined;
    if (!joins) {
      channel = new Channel(name, this.#link.env, new Progress(from), (of, how) => this.#renew(of, how));
      this.#byName.set(name, channel);
    }
    const handle = {
      channel, token, recover: recover !== false, listeners: new Listeners(), ended: null,
      from: joins ? from : null, // from here on its history is to be fetched
      held: joins && from ? [] : null, // what came meanwhile
      heldFrom: 0, // the history is fetched up to here
      floor: null, // a position ahead of the channel's: up to here nothing is told
    };
    handle.ready = new Promise((resolve, reject) => Object.assign(handle, { resolve, reject }));
    handle.ready.catch(() => {}); // it may also be heard of by `error`
    channel.handles.add(handle);
    if (!joins) {
      if (begin) this.#prepare(channel);
    } else if (channel.stage === 'subscribed') {
      const turn = this.#link.turn();
      // The caller adds its listeners first.
      Promise.resolve().then(() => {
        if (turn === this.#link.turn() && channel.stage === 'subscribed' && !handle.ended) this.#welcome(handle, this.#now(channel));
      });
    }
    const { newKey, publish, read } = this.#link;
    return new Subscription(handle, { newKey, publish, read, unsubscribe: () => this.#unsubscribe(handle) });
  }

  position(name) {
    return this.#byName.get(name)?.progress.position ?? null;
  }

  /** Whether what is published there may go out: to a channel that is not subscribed yet it would be refused. */
  isReady(name) {
    return (this.#byName.get(name)?.stage ?? 'subscribed') === 'subscribed';
  }

  // ---- the connection's life ----

  /** A new attempt to connect. */
  prepareAll() {
    for (const channel of [...this.#byName.values()]) this.#prepare(channel);
  }

  lost() {
    this.#askedAtSignIn.clear();
    for (const channel of this.#byName.values()) {
      channel.stage = 'waiting';
      channel.renewal.stop();
    }
  }

  /** For `auth`: what is prepared, as far as it fits. The rest is asked for after it. */
  forSignIn() {
    const asked = [];
    let room = SIGN_IN_LENGTH;
    for (const channel of this.#byName.values()) {
      if (channel.stage !== 'prepared') continue;
      const wanted = this.#wanted(channel);
      room -= JSON.stringify(wanted).length;
      if (room < 0 || asked.length === SIGN_IN_CHANNELS) break;
      asked.push(wanted);
      channel.stage = 'asked';
      this.#askedAtSignIn.set(channel.name, channel);
    }
    return asked;
  }

  signedIn() {
    for (const { name, stage } of this.#askedAtSignIn.values()) if (stage === 'left') this.#leave(name);
    for (const channel of [...this.#byName.values()]) if (channel.stage === 'prepared') this.#askFor(channel);
  }

  /** Takes all out; `retire` ends them. */
  takeAll() {
    const channels = [...this.#byName.values()];
    this.#byName.clear();
    return channels;
  }

  retire(channels, cause) {
    for (const channel of channels) {
      channel.renewal.stop();
      this.#endAll(channel, closedError('the connection has ended', cause));
    }
  }

  // ---- what comes in ----

  /** Whether the envelope answers what the sign-in asked for. */
  answer(envelope) {
    const { type, id, data } = envelope;
    if (id !== undefined || (type !== 'subscribed' && type !== 'error')) return false;
    const channel = this.#askedAtSignIn.get(data?.channel);
    if (channel === undefined) return false;
    this.#askedAtSignIn.delete(channel.name);
    if (type === 'subscribed') this.#subscribed(channel, data);
    else this.#refused(channel, refusalError(envelope));
    return true;
  }

  /** Whether a push is to be told: it is no duplicate. Moves the position. */
  take({ type, data }) {
    const progress = this.#byName.get(data?.channel)?.progress;
    if (progress === undefined) return true;
    if (type === 'message' || type === 'publication') return progress.take(data.offset);
    if (type === 'gap') progress.skip(data);
    return true;
  }

  /** Passes a push on to the subscriptions of its channel. */
  deliver(envelope) {
    const { type, data } = envelope;
    const channel = this.#byName.get(data?.channel);
    if (channel?.stage !== 'subscribed') return;
    if (CHANNEL_PUSHES.has(type)) {
      for (const handle of [...channel.handles]) if (!handle.ended) this.#tell(handle, envelope);
    } else if (type === 'token_expiring') {
      if (typeof channel.token === 'function') channel.renewal.expiring(data.expires_at, this.#link.remaining(data.expires_at));
    } else if (type === 'unsubscribed') {
      if (envelope.code === UNAUTHENTICATED && typeof channel.token === 'function') this.#resubscribe(channel);
      else this.#end(channel, undefined, envelope);
    }
  }

  #tell(handle, envelope) {
    const { type, data } = envelope;
    if (handle.held) {
      if (handle.held.length < HELD) return handle.held.push(envelope);
      handle.held = [envelope]; // too many: they are in the history as well
      handle.heldFrom = handle.channel.progress.position.offset;
      return;
    }
    if (handle.floor && (type === 'message' || type === 'publication')) {
      if (handle.channel.progress.position.epoch === handle.floor.epoch && data.offset <= handle.floor.offset) return;
      handle.floor = null;
    }
    handle.listeners.emit(type, envelope);
  }

  // ---- the subscription ----

  /** Gets the token, and asks for the subscription: with the sign-in, or at once if that is over. */
  async #prepare(channel) {
    const turn = this.#link.turn();
    const source = channel.token;
    channel.usableToken = source;
    if (typeof source === 'function') {
      let failure;
      try {
        channel.usableToken = await channel.tokens.ask(source, { channel: channel.name, refused: channel.refusals > 0 });
      } catch (error) {
        failure = error ?? new Error('unknown');
      }
      if (turn !== this.#link.turn() || channel.stage !== 'waiting') return;
      if (failure) {
        const error = new UringcastError('no_token', `no token: ${failure.message ?? failure}`, { outcome: 'not_sent' });
        if (failure.final) return this.#end(channel, error);
        return this.#retry(channel, error, this.#link.backoff(channel.attempt++));
      }
    }
    channel.stage = 'prepared';
    if (this.#link.isOnline()) this.#askFor(channel);
  }

  #askFor(channel) {
    const turn = this.#link.turn();
    const asked = this.#link.requests.ask(
      'subscribe',
      this.#wanted(channel),
      (data) => this.#subscribed(channel, data),
      (error) => turn === this.#link.turn() && this.#refused(channel, error),
    );
    if (asked) channel.stage = 'asked';
  }

  #wanted(channel) {
    const wanted = { channel: channel.name };
    if (typeof channel.usableToken === 'string' && channel.usableToken !== '') wanted.token = channel.usableToken;
    const at = channel.recover ? channel.progress.position : null;
    channel.recovering = at !== null;
    if (at) wanted.recover = at;
    return wanted;
  }

  #subscribed(channel, data) {
    if (channel.stage !== 'asked') return; // it has been given up meanwhile
    const { epoch, offset, publications = [], expires_at: expiresAt } = data;
    const turn = this.#link.turn();
    channel.stage = 'subscribed';
    channel.subscribedAt = this.#link.env.now();
    channel.attempt = 0;
    channel.refusals = 0;
    channel.answer = { channel: channel.name, epoch, overflow: data.overflow };
    channel.progress.resume(data, channel.recovering);
    if (typeof channel.token === 'function') channel.renewal.expires(expiresAt, this.#link.remaining(expiresAt));
    this.#link.flush();
    for (const handle of [...channel.handles]) if (!handle.ended) this.#welcome(handle, data);
    if (turn !== this.#link.turn() || channel.stage !== 'subscribed') return; // a listener led elsewhere
    for (const { type = 'message', ...rest } of publications) {
      this.#link.push({ type, code: 200, data: rest });
      if (turn !== this.#link.turn() || channel.stage !== 'subscribed') return;
    }
    if (data.recovered !== false) channel.progress.caughtUp(offset);
  }

  /** What a handle that joins is told in place of the server's answer. */
  #now(channel) {
    const { epoch, offset } = channel.progress.position;
    return { ...channel.answer, epoch, offset };
  }

  #welcome(handle, data) {
    handle.resolve(data);
    handle.listeners.emit('subscribed', { type: 'subscribed', code: 200, data });
    if (handle.from && !handle.ended) this.#replay(handle);
  }

  /**
   * A handle that joins with a position is told what came since from the channel's history, and then what came
   * meanwhile. What the history no longer holds is told as a gap.
   */
  async #replay(handle) {
    const { channel, from, listeners } = handle;
    const { name, answer: { epoch } } = channel;
    const position = channel.progress.position;
    handle.from = null;
    handle.heldFrom = position.epoch === epoch ? position.offset : 0;
    const tell = (type, data) => !handle.ended && listeners.emit(type, { type, code: 200, data });
    const lose = (first, last) => {
      if (last >= first && !handle.ended) listeners.emit('gap', { type: 'gap', data: { channel: name, epoch, from: first, to: last, reason: 'history_lost' } });
    };
    let at = from.epoch === epoch ? from.offset : 0;
    if (from.epoch !== epoch) {
      lose(1, handle.heldFrom);
      at = handle.heldFrom;
    }
    try {
      while (at < handle.heldFrom && !handle.ended) {
        const page = await this.#link.read('history', { channel: name, since: { epoch, offset: at }, limit: PAGE });
        if (handle.ended) return;
        const publications = page.publications ?? [];
        for (const { type = 'message', ...data } of publications) {
          if (data.offset <= at || data.offset > handle.heldFrom) continue;
          lose(at + 1, data.offset - 1);
          at = data.offset;
          tell(type, data);
        }
        if (publications.length === 0 || publications.at(-1).offset >= handle.heldFrom) break;
      }
    } catch (error) {
      if (!handle.ended) listeners.emit('error', error);
    }
    lose(at + 1, handle.heldFrom);
    if (at > handle.heldFrom) handle.floor = { epoch, offset: at };
    const held = handle.held ?? [];
    handle.held = null;
    for (const envelope of held) {
      if (handle.ended) return;
      if (!(envelope.data?.offset <= handle.heldFrom)) this.#tell(handle, envelope);
    }
  }

  /** What the server can't do now it may do later. Of a token function another token may be had. The rest is final. */
  #refused(channel, error) {
    if (channel.stage !== 'asked') return;
    if (error.code >= 500) return this.#retry(channel, error, this.#link.backoff(channel.attempt++));
    const badToken = (error.code === UNAUTHENTICATED || error.code === FORBIDDEN) && typeof channel.token === 'function';
    if (!badToken || channel.refusals + 1 >= MAX_REFUSALS) return this.#end(channel, error);
    channel.refusals += 1;
    this.#retry(channel, error, this.#link.patience(channel.refusals));
  }

  #retry(channel, error, wait) {
    channel.stage = 'waiting';
    this.#link.timers.start(`subscribe ${channel.name}`, wait, () => this.#prepare(channel));
    for (const handle of [...channel.handles]) if (!handle.ended) handle.listeners.emit('error', error);
  }

  /** The channel's token has expired: it is subscribed anew with another, from where it was. */
  #resubscribe(channel) {
    channel.stage = 'waiting';
    channel.renewal.stop();
    const wait = TOKEN_PAUSE_MS - (this.#link.env.now() - channel.subscribedAt);
    if (wait <= 0) this.#prepare(channel);
    else this.#link.timers.start(`subscribe ${channel.name}`, wait, () => this.#prepare(channel));
  }


  async #renew(channel, { refused }) {
    const turn = this.#link.turn();
    const source = channel.token;
    if (typeof source !== 'function') return {};
    const token = await channel.tokens.ask(source, { channel: channel.name, refused });
    if (turn !== this.#link.turn() || channel.stage !== 'subscribed') return {};
    if (typeof token !== 'string' || token === '' || token === channel.usableToken) return {};
    return this.#link.showToken(token, channel.name, () => (channel.usableToken = token));
  }

  slept(ms) {
    for (const { renewal } of this.#byName.values()) renewal.slept(ms);
  }

  // ---- the end ----

  #unsubscribe(handle) {
    const { channel } = handle;
    if (handle.ended) return;
    channel.handles.delete(handle);
    if (channel.handles.size === 0) {
      const { stage } = channel;
      this.#remove(channel);
      this.#link.flush(); // what waited for the subscription is for the server to refuse
      if (stage === 'asked' || stage === 'subscribed') this.#leave(channel.name);
    }
    this.#endHandle(handle, closedError('unsubscribed'), { type: 'unsubscribed', code: 200, data: { channel: channel.name } });
  }

  /** Before the sign-in is over this does nothing; `signedIn` comes back to it. */
  #leave(name) {
    this.#link.requests.ask('unsubscribe', { channel: name }, () => {}, () => {}); // refused: then it isn't subscribed anyway
  }

  /** The channel ends for all of its handles: by an error, or by the server's `unsubscribed`. */
  #end(channel, error, push) {
    this.#remove(channel);
    this.#link.flush(); // as above
    this.#endAll(channel, error, push);
  }

  #endAll(channel, error, push) {
    channel.stage = 'left';
    const handles = [...channel.handles];
    channel.handles.clear();
    const name = channel.name;
    for (const handle of handles) {
      if (error && error.code !== 'closed') handle.listeners.emit('error', error);
      const told = push ?? { type: 'unsubscribed', code: error.code, message: error.message, data: { channel: name } };
      const why = error ?? new UringcastError(push.code, push.message ?? 'the server ended the subscription', { outcome: 'refused' });
      this.#endHandle(handle, why, told);
    }
  }

  /** Nothing more is told of it but its end, and why. */
  #endHandle(handle, error, push) {
    if (handle.ended) return;
    handle.ended = error;
    handle.held = null;
    handle.reject(error);
    handle.listeners.emit('unsubscribed', push);
  }

  #remove(channel) {
    channel.stage = 'left';
    channel.renewal.stop();
    this.#link.timers.stop(`subscribe ${channel.name}`);
    if (this.#byName.get(channel.name) === channel) this.#byName.delete(channel.name);
  }
}
