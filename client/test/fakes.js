// A clock and a WebSocket that do only what a test tells them to. The client takes both through its `env` option.

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
