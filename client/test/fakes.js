// A clock and a WebSocket that do only what a test tells them to, and a client on them. The client takes both through its
// `env` option.

import assert from 'node:assert/strict';
import { Uringcast } from '../uringcast.js';

export class FakeClock {
  #now = 0;
  #next = 1;
  #timers = new Map(); // handle → { at, run }

  now = () => this.#now;

  setTimeout = (run, ms) => {
    const handle = this.#next++;
    this.#timers.set(handle, { at: this.#now + ms, run });
    return handle;
  };

  clearTimeout = (handle) => {
    this.#timers.delete(handle);
  };

  get pending() {
    return this.#timers.size;
  }

  /** Lets `ms` pass: due timers run in order, each followed by everything it set off. */
  async advance(ms) {
    const end = this.#now + ms;
    await settle();
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (!due) break;
      const [handle, timer] = due;
      this.#timers.delete(handle);
      this.#now = Math.max(this.#now, timer.at);
      timer.run();
      await settle();
    }
    this.#now = end;
  }
}

/** Lets every promise that can be settled be settled. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class FakeSocket {
  readyState = 0;
  sent = [];
  closedWith = undefined;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    if (this.readyState === 0) throw new Error('InvalidStateError');
    if (this.readyState === 1) this.sent.push(JSON.parse(text)); // beyond that it is silently lost, as in a browser
  }

  /** The client closes: as with a dead network, `onclose` comes late, when the test calls `finishClose`. */
  close(code) {
    if (this.readyState >= 2) return;
    this.readyState = 2;
    this.closedWith = code ?? 1005;
  }

  finishClose(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code, reason: '' });
  }

  // What the server does.

  open() {
    if (this.readyState === 1) return; // it is open already
    this.readyState = 1;
    this.onopen?.({});
  }

  push(envelope) {
    this.onmessage?.({ data: typeof envelope === 'string' ? envelope : JSON.stringify(envelope) });
  }

  drop(code = 1006, reason = '') {
    this.readyState = 3;
    this.onerror?.({});
    this.onclose?.({ code, reason });
  }

  /** What the client sent, of one type. */
  of(type) {
    return this.sent.filter((envelope) => envelope.type === type);
  }
}

export const USER = { id: 1, username: 'Alice' };

/** A client on fakes. `random` is 1 unless a test says otherwise, so that a wait is its upper bound. */
export function setUp(options = {}) {
  const clock = new FakeClock();
  const sockets = [];
  const states = [];
  class WebSocket extends FakeSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  const { random = () => 1, ...rest } = options;
  const env = { WebSocket, setTimeout: clock.setTimeout, clearTimeout: clock.clearTimeout, now: clock.now, random };
  const client = new Uringcast('ws://host/ws', { token: 'secret', env, ...rest });
  client.on('state', (event) => states.push(event));
  const last = () => sockets.at(-1);
  const signIn = async (lobby = { channel: 'lobby', epoch: 'e1', offset: 7 }) => {
    await settle();
    last().open();
    last().push({ type: 'system', code: 200, message: 'connected, please authenticate', data: { connection_id: 'c' } });
    last().push({ type: 'auth_success', code: 200, data: { user: USER, online_count: 1, lobby } });
  };
  const online = async () => {
    client.connect();
    await signIn();
    assert.equal(client.state, 'online');
  };
  return { client, clock, sockets, states, last, signIn, online };
}

/** How a promise ended so far: a rejection's code and outcome, the value, or 'pending'. */
export async function fate(promise) {
  const seen = promise.then((value) => ({ value }), (error) => ({ code: error.code, outcome: error.outcome }));
  return Promise.race([seen, settle().then(() => 'pending')]);
}

/** A promise whose rejection the test looks at later. */
export function later(promise) {
  promise.catch(() => {});
  return promise;
}
