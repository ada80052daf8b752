// What was asked of the server and not answered yet.

import { UringcastError, closedError, inWords, offlineError, refusalError } from './errors.js';
import { startTimer } from './platform.js';

const SUSPICION = 1 / 4; // of a request's time-out: after so much of it without hearing anything, the connection is checked

/**
 * Three kinds of requests, by what happens when the connection is lost before the answer:
 *  - `once`: rejected with `connection_lost`; whether it was done is unknown.
 *  - `read`: asked again after the reconnect, within its time-out. It changes nothing.
 *  - `message`: sent again after the reconnect, under its idempotency key, within its lifetime.
 */
export class Requests {
  #env;
  #options;
  #transmit;
  #onSilence;
  #nextId = 1;
  #asked = new Map(); // id → entry: what awaits an answer on this connection
  #kept = []; // entries that outlive a connection, oldest first
  #messages = 0; // of `#kept`

  /** `transmit(text)` says whether it could be sent; `onSilence(since)` hears of a request without an answer. */
  constructor({ env, options, transmit, onSilence }) {
    this.#env = env;
    this.#options = options;
    this.#transmit = transmit;
    this.#onSilence = onSilence;
  }

  get messages() {
    return this.#messages;
  }

  nextId() {
    return String(this.#nextId++);
  }

  /** Sends a request whose answer is handled at once, before anything that comes behind it. No deadline. False: not sent. */
  ask(type, data, resolve, reject) {
    return this.#send(this.#entry('once', type, data, Infinity, resolve, reject));
  }

  once(type, data, timeoutMs, cause) {
    return this.#promise('once', type, data, timeoutMs, (entry) => {
      if (!this.#send(entry)) entry.reject(offlineError('not connected', cause));
    });
  }

  read(type, data, timeoutMs, cause) {
    return this.#promise('read', type, data, timeoutMs, (entry) => {
      if (!this.#send(entry)) return entry.reject(offlineError('not connected', cause));
      this.#kept.push(entry);
    });
  }

  /** Keeps it until it is acknowledged. `flush` sends it. */
  message(type, data, timeoutMs = this.#options.messageLifetimeMs) {
    const { queueLimit, messageLifetimeMs } = this.#options;
    const lifetimeMs = Math.min(timeoutMs, messageLifetimeMs);
    return this.#promise('message', type, data, lifetimeMs, (entry) => {
      if (this.#messages >= queueLimit) {
        const { idempotencyKey } = entry;
        return entry.reject(new UringcastError('queue_full', 'too many messages are waiting', { outcome: 'not_sent', idempotencyKey }));
      }
      this.#messages += 1;
      this.#kept.push(entry);
      entry.cancelDeadline = startTimer(this.#env, lifetimeMs, () => this.#giveUp(entry));
    });
  }

  /** Sends what is kept and not sent, oldest first, as far as `isReady(channel)`. */
  flush(isReady) {
    for (const entry of [...this.#kept]) {
      if (entry.sentAt !== null || entry.done || !isReady(entry.channel)) continue;
      // The server forgets an idempotency key after five minutes, of which a machine that slept has not counted all.
      const age = this.#env.wall() - entry.bornWall;
      if (entry.kind === 'message' && entry.everSent && age >= entry.timeoutMs) this.#giveUp(entry);
      else if (!this.#send(entry)) return;
    }
  }

  /** Whether the envelope answers a request. */
  answer(envelope) {
    const entry = this.#asked.get(envelope.id);
    if (entry === undefined) return false;
    this.#forget(entry);
    if (envelope.type === 'error') entry.reject(refusalError(envelope, entry.idempotencyKey));
    else entry.resolve(envelope.data ?? {});
    return true;
  }

  /** The connection is gone. `cause`: `{ code, reason, by }`. */
  lost(cause) {
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const entry of asked) {
      entry.cancelSuspicion();
      entry.sentAt = null;
      if (entry.kind === 'read' || (entry.kind === 'message' && this.#options.resend)) continue;
      this.#forget(entry);
      entry.reject(new UringcastError('connection_lost', `the connection was lost${inWords(cause)}`, { ...doubt(entry), cause }));
    }
  }

  /** The client has ended. */
  end(cause) {
    for (const entry of [...this.#kept]) {
      this.#forget(entry);
      entry.reject(closedError('the connection has ended', cause, doubt(entry)));
    }
  }

  #promise(kind, type, data, timeoutMs = this.#options.requestTimeoutMs, start) {
    return new Promise((resolve, reject) => {
      let entry;
      try {
        entry = this.#entry(kind, type, data, timeoutMs, resolve, reject);
      } catch (error) {
        return reject(new TypeError(`this is no JSON: ${error.message}`));
      }
      start(entry);
    });
  }

  #entry(kind, type, data, timeoutMs, resolve, reject) {
    const body = JSON.stringify(data); // as it is now: what is sent again under the same key must be the same
    return {
      kind, type, body, timeoutMs, resolve, reject,
      id: this.nextId(), channel: data.channel, idempotencyKey: data.idempotency_key, bornWall: this.#env.wall(),
      sentAt: null, everSent: false, done: false, cancelDeadline: () => {}, cancelSuspicion: () => {},
    };
  }

  #send(entry) {
    if (!this.#transmit(`{"type":${JSON.stringify(entry.type)},"id":"${entry.id}","data":${entry.body}}`)) return false;
    const { requestTimeoutMs } = this.#options;
    entry.sentAt = this.#env.now();
    if (entry.kind !== 'message' && !entry.everSent) {
      entry.cancelDeadline = startTimer(this.#env, entry.timeoutMs, () => this.#giveUp(entry));
    }
    entry.everSent = true;
    this.#asked.set(entry.id, entry);
    const patience = Math.min(entry.timeoutMs, requestTimeoutMs) * SUSPICION;
    entry.cancelSuspicion = startTimer(this.#env, patience, () => this.#onSilence(entry.sentAt));
    return true;
  }

  #giveUp(entry) {
    this.#forget(entry);
    if (entry.kind === 'message') entry.reject(new UringcastError('expired', 'it was not acknowledged in time', doubt(entry)));
    else entry.reject(new UringcastError('timeout', 'no answer in time', doubt(entry)));
  }

  #forget(entry) {
    entry.done = true;
    entry.cancelDeadline();
    entry.cancelSuspicion();
    this.#asked.delete(entry.id);
    const index = this.#kept.indexOf(entry);
    if (index < 0) return;
    this.#kept.splice(index, 1);
    if (entry.kind === 'message') this.#messages -= 1;
  }
}

/** What a request that failed may have done on the server. */
function doubt({ everSent, idempotencyKey }) {
  return { outcome: everSent ? 'unknown' : 'not_sent', idempotencyKey };
}
