// A clock and a WebSocket that do only what a test tells them to, and a client on them. The client takes both through its
// `env` option.

import assert from 'node:assert/strict';
import { Uringcast } from '../uringcast.js';

export class FakeClock {
  #now = 0;
  #next = 1;
  #timers = new Map(); // handle → { at, run }

  #slept = 0;

  now = () => this.#now;

  /** The wall clock: it counts sleep too. */
  wall = () => this.#now + this.#slept;

  /** The machine sleeps: the wall clock goes on, this clock and its timers stand still. */
  sleep(ms) {
    this.#slept += ms;
  }

  setTimeout = (run, ms) => {
    const handle = this.#next++;
    this.#timers.set(handle, { at: this.#now + ms, run });
    return handle;
  };

  /** The program stands still: time passes, and then all due timers run at once, late. */
  async freeze(ms) {
    this.#now += ms;
    await this.advance(0);
  }

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

/** A window with a document, as far as the client looks at one. */
export class FakePage extends EventTarget {
  document = Object.assign(new EventTarget(), { visibilityState: 'visible' });

  fire(type) {
    this.dispatchEvent(new Event(type));
  }

  show(visibilityState) {
    this.document.visibilityState = visibilityState;
    this.document.dispatchEvent(new Event('visibilitychange'));
  }
}

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
/** What the server's clock shows when the fake one shows 0; nobody else's clock does. */
export const SERVER_MS = 1_800_000_000_000;

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
  const { random = () => 1, env: ownEnv, ...rest } = options;
  const page = new FakePage();
  const env = { WebSocket, setTimeout: clock.setTimeout, clearTimeout: clock.clearTimeout, now: clock.now, wall: clock.wall, random, page, ...ownEnv };
  const client = new Uringcast('ws://host/ws', { token: 'secret', env, ...rest });
  client.on('state', (event) => states.push(event));
  const last = () => sockets.at(-1);
  /** The server takes the sign-in. `life`: how long the token lives, in milliseconds, if the server says so. */
  const signIn = async (lobby = { channel: 'lobby', epoch: 'e1', offset: 7 }, life) => {
    await settle();
    last().open();
    const timestamp = SERVER_MS + clock.now();
    last().push({ type: 'system', code: 200, message: 'connected, please authenticate', data: { connection_id: 'c', timestamp } });
    const data = { user: USER, online_count: 1, lobby };
    if (life !== undefined) data.expires_at = timestamp + life;
    last().push({ type: 'auth_success', code: 200, data });
  };
  const online = async (life) => {
    client.connect();
    await signIn(undefined, life);
    assert.equal(client.state, 'online');
  };
  return { client, clock, page, sockets, states, last, signIn, online };
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
