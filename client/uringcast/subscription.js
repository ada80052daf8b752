// What `Uringcast.subscribe` gives: a handle on a channel. It knows and does nothing by itself.

import { closedError, offlineError } from './errors.js';

export class Subscription {
  #handle;
  #does;

  constructor(handle, does) {
    this.#handle = handle;
    this.#does = does;
  }

  get channel() {
    return this.#handle.channel.name;
  }

  /** `subscribing` (again after each reconnect), `subscribed` or `ended`, which is for good. */
  get state() {
    if (this.#handle.ended) return 'ended';
    return this.#handle.channel.stage === 'subscribed' ? 'subscribed' : 'subscribing';
  }

  /** Resolves when the channel is subscribed for the first time, with the answer's data; rejects if it never is. */
  get ready() {
    return this.#handle.ready;
  }

  /** The last place told in the channel, `{ epoch, offset }`, or null. */
  get position() {
    return this.#handle.ended ? null : this.#handle.channel.progress.position;
  }

  /**
   * Listens for `publication`, `message`, `gap`, `join`, `leave`, `presence_digest`, `subscribed` (each time, before what
   * was missed), `unsubscribed` (the end) or `error` (a `UringcastError`). Returns how to stop.
   */
  on(type, listener) {
    return this.#handle.listeners.on(type, listener);
  }

  off(type, listener) {
    this.#handle.listeners.off(type, listener);
  }

  /** Publishes any JSON and resolves with the acknowledgement's data. Waits and repeats as `send` does, in one queue with it. */
  publish(data, { key, idempotencyKey = this.#does.newKey(), timeoutMs } = {}) {
    if (this.state === 'ended') return Promise.reject(this.#ended(idempotencyKey));
    const publication = { channel: this.channel, data, key, idempotency_key: idempotencyKey };
    try {
      if (JSON.stringify(data) === undefined) throw new Error(`it is ${typeof data}`);
    } catch (error) {
      return Promise.reject(new TypeError(`this is no JSON: ${error.message}`));
    }
    return this.#does.publish(publication, timeoutMs);
  }

  /** What the channel's history holds after `since` (a position), or with `reverse` before it: `{ epoch, offset, publications }`. */
  history({ since, limit, reverse, timeoutMs } = {}) {
    return this.#read('history', { since, limit, reverse }, timeoutMs);
  }

  /** One page of who is in the channel: `{ count, members, cursor? }`. */
  presence({ cursor, limit, timeoutMs } = {}) {
    return this.#read('presence', { cursor, limit }, timeoutMs);
  }

  /** Ends this subscription: from here on nothing of the channel is told to it. The last one leaves the channel. */
  unsubscribe() {
    this.#does.unsubscribe();
  }

  /** What the server answers to subscribers only. */
  #read(type, data, timeoutMs) {
    if (this.state === 'ended') return Promise.reject(this.#ended());
    if (this.state !== 'subscribed') return Promise.reject(offlineError('not subscribed now'));
    return this.#does.read(type, { channel: this.channel, ...data }, timeoutMs);
  }

  #ended(idempotencyKey) {
    const { message, cause } = this.#handle.ended;
    return closedError(`the subscription has ended: ${message}`, undefined, { idempotencyKey, cause });
  }
}
