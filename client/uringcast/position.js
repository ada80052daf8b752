// How far a channel has been told to the listeners.

/** Throws unless this is `{ epoch, offset }`. */
export function checkPosition(position) {
  const { epoch, offset } = position ?? {};
  if (typeof epoch === 'string' && epoch !== '' && Number.isSafeInteger(offset) && offset >= 0) return { epoch, offset };
  throw new TypeError('a position is { epoch, offset }, as the server gives it');
}

/**
 * Two places in one channel. `position` is what to recover from: it moves only over what was told, or declared lost by a
 * gap. The stream's place (`#epoch`, `#seen`) is the last publication of this connection: what is at or below it is a
 * duplicate. They differ after `recovered: false`, until the gap is there, and inside a conflated gap.
 */
export class Progress {
  #position;
  #epoch;
  #seen = 0;

  constructor(position = null) {
    this.#position = position;
  }

  /** A copy, or null before the first answer. */
  get position() {
    return this.#position && { ...this.#position };
  }

  /** Takes the server's answer to a subscription or sign-in. `asked`: it was asked to recover from the position. */
  resume({ epoch, offset, recovered }, asked) {
    this.#epoch = epoch;
    this.#seen = offset;
    if (!asked || this.#position === null || typeof recovered !== 'boolean') this.#position = { epoch, offset };
    else if (recovered) this.#seen = this.#position.offset; // what was missed is in the answer, and still to be told
  }

  /** Everything of the answer has been told. */
  caughtUp(offset) {
    this.#seen = Math.max(this.#seen, offset);
    this.#move(this.#epoch, offset);
  }

  /** Whether a publication is to be told; then the position is behind it. */
  take(offset) {
    if (this.#position === null || !Number.isSafeInteger(offset)) return true;
    if (offset <= this.#seen) return false;
    this.#seen = offset;
    this.#move(this.#epoch, offset);
    return true;
  }

  /** Publications are lost. Within a conflated gap some may still come. */
  skip({ epoch = this.#epoch, from, to, reason }) {
    if (this.#position === null || !Number.isSafeInteger(to)) return;
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#seen = Number.isSafeInteger(from) ? from - 1 : 0;
    }
    if (reason !== 'conflated') this.#seen = Math.max(this.#seen, to);
    this.#move(epoch, to);
  }

  /** A position only grows within its epoch. */
  #move(epoch, offset) {
    if (this.#position.epoch !== epoch) this.#position = { epoch, offset };
    else if (offset > this.#position.offset) this.#position.offset = offset;
  }
}
