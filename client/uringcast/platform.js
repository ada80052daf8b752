// What the client takes from the machine it runs on: sockets, clocks, timers, random numbers and the page's events.
// Every one of them may be missing or replaced: `env` in the constructor's options overrides any.

const MAX_TIMER_MS = 2 ** 31 - 1; // a longer delay overflows in browsers and in Node, and fires at once

export function environment(env) {
  return {
    WebSocket: globalThis.WebSocket,
    setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
    clearTimeout: (handle) => globalThis.clearTimeout(handle),
    now: () => globalThis.performance?.now() ?? Date.now(), // monotonic
    wall: () => Date.now(), // goes on during sleep, where the monotonic clock of some systems does not
    random: Math.random,
    page: globalThis, // what has `addEventListener` and `document`, in a browser
    ...env,
  };
}

/** A timer of any length; `Infinity` never fires. `run` is told how late it is, in milliseconds. Returns how to cancel it. */
export function startTimer(env, ms, run) {
  let handle;
  const due = env.now() + ms;
  const arm = (left) => {
    const step = Math.min(left, MAX_TIMER_MS);
    handle = env.setTimeout(() => (left > step ? arm(left - step) : run(Math.max(0, env.now() - due))), step);
  };
  if (ms !== Infinity) arm(Math.max(0, ms));
  return () => env.clearTimeout(handle);
}

/** Timers by name: starting one again replaces it. */
export class Timers {
  #env;
  #byName = new Map(); // name → { due, run, cancel }

  constructor(env) {
    this.#env = env;
  }

  start(name, ms, run) {
    this.stop(name);
    const cancel = startTimer(this.#env, ms, (late) => {
      this.#byName.delete(name);
      run(late);
    });
    this.#byName.set(name, { due: this.#env.now() + ms, run, cancel });
  }

  /** Makes a running timer fire within `ms`. */
  hasten(name, ms) {
    const timer = this.#byName.get(name);
    if (timer && timer.due > this.#env.now() + ms) this.start(name, ms, timer.run);
  }

  isRunning(name) {
    return this.#byName.has(name);
  }

  stop(name) {
    this.#byName.get(name)?.cancel();
    this.#byName.delete(name);
  }

  stopAll() {
    for (const name of [...this.#byName.keys()]) this.stop(name);
  }
}

export class Listeners {
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

/**
 * Asks a token function, never twice at a time: a second ask, also one by a later attempt to connect, gets the answer to
 * the first. One that does not answer for a minute is given up.
 */
export class TokenSource {
  static #GIVE_UP_MS = 60_000;
  #env;
  #pending = null; // { source, since, answer }

  constructor(env) {
    this.#env = env;
  }

  ask(source, how) {
    const now = this.#env.now();
    if (this.#pending?.source === source && now - this.#pending.since < TokenSource.#GIVE_UP_MS) return this.#pending.answer;
    const call = async () => source(how); // a function that throws rejects
    const pending = { source, since: now, answer: call() };
    this.#pending = pending;
    const settled = () => this.#pending === pending && this.forget();
    pending.answer.then(settled, settled);
    return pending.answer;
  }

  forget() {
    this.#pending = null;
  }
}

/** 128 random bits. Not `randomUUID`, which plain-http pages lack; without any `crypto`, a key that is unique will do. */
export function randomKey(random) {
  const bytes = new Uint8Array(16);
  try {
    globalThis.crypto.getRandomValues(bytes);
  } catch {
    for (let index = 0; index < bytes.length; index += 1) bytes[index] = Math.floor(random() * 256);
  }
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * Watches the page, where there is one. `onReturn`: the network is back, the page is visible again, or it comes out of the
 * back/forward cache. `onHide`: the page goes away or into that cache, which takes no page with an open socket. Returns
 * how to stop.
 */
export function watchPage(page, { onReturn, onHide }) {
  const stops = [];
  const listen = (target, type, listener) => {
    if (typeof target?.addEventListener !== 'function') return;
    target.addEventListener(type, listener);
    stops.push(() => target.removeEventListener?.(type, listener));
  };
  listen(page, 'online', onReturn);
  listen(page, 'pageshow', onReturn);
  listen(page, 'pagehide', onHide);
  listen(page?.document, 'visibilitychange', () => page.document.visibilityState === 'visible' && onReturn());
  return () => stops.splice(0).forEach((stop) => stop());
}
