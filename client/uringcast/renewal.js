// When to ask for a newer token before the present one ends: the user's, or a channel's.

import { startTimer } from './platform.js';

const LEAD_MS = 30_000; // the first ask is this long before the end, or at half of the token's remaining life
const PAUSE_MS = { min: 500, max: 1_000 }; // between two asks: an eighth of the token's life, within these
const AFTER_END_MS = 5_000; // a server that grants some leeway keeps the connection for a while
const MAX_REFUSALS = 3; // for one connection: a server ends one that shows too many bad tokens

/**
 * Asks at min(30 s, half of the remaining life) before the end. If that brings nothing newer it asks again when half of
 * what is left has passed, down to a second between two asks. Asks never overlap. All times are the server's, carried over to
 * the monotonic clock, so the client's wall clock may be wrong.
 */
export class Renewal {
  #env;
  #renew;
  #cancel = () => {};
  #generation = 0;
  #asking = false;
  #askedAt = -Infinity;
  #askAt = Infinity; // when the next ask is due
  #askedFor = null; // the end for which an ask was made
  #expiresAt = null; // server's time, Unix milliseconds
  #endsAt = 0; // the same on the monotonic clock
  #pause = PAUSE_MS.max;
  #refused = false; // the last token that was shown
  #refusals = 0;
  #givenUp = false;

  /**
   * `renew({ refused })` asks for a token and shows it to the server. It resolves with `{ expiresAt, remaining }`, with
   * `{ refused: true }`, or with `{}` if there is nothing newer; an error with `final: true` ends the asking.
   */
  constructor(env, renew) {
    this.#env = env;
    this.#renew = renew;
  }

  /** The server named the end of the token; `remaining` is the time until then. */
  expires(expiresAt, remaining) {
    if (!Number.isFinite(expiresAt) || !Number.isFinite(remaining) || expiresAt === this.#expiresAt) return;
    this.#expiresAt = expiresAt;
    this.#endsAt = this.#env.now() + remaining;
    this.#pause = Math.min(PAUSE_MS.max, Math.max(PAUSE_MS.min, remaining / 8));
    this.#givenUp = false;
    this.#schedule(remaining - Math.min(LEAD_MS, remaining / 2));
  }

  /**
   * The server says that the end is near: half a minute ahead, as far as is known. That counts for more than the client's own
   * reckoning, but is no reason to ask at once: a server may say it of every new token that is short-lived.
   */
  expiring(expiresAt, remaining) {
    if (!Number.isFinite(expiresAt) || this.#askedFor === expiresAt) return; // it is being seen to
    const known = Number.isFinite(remaining);
    this.#expiresAt = expiresAt;
    this.#endsAt = this.#env.now() + Math.min(LEAD_MS, known ? remaining : LEAD_MS);
    const half = (this.#endsAt - this.#env.now()) / 2;
    this.#schedule(known ? Math.min(half, this.#askAt - this.#env.now()) : 0);
  }

  /** The machine has slept, which the monotonic clock has not noticed. */
  slept(ms) {
    this.#endsAt -= ms;
    if (this.#expiresAt !== null) this.#schedule(this.#askAt - ms - this.#env.now());
  }

  stop() {
    this.#generation += 1;
    this.#cancel();
    this.#askAt = Infinity;
    this.#expiresAt = null;
    this.#askedFor = null;
    this.#asking = false;
    this.#refused = false;
    this.#refusals = 0;
  }

  #schedule(wait) {
    this.#cancel();
    this.#askAt = Infinity;
    if (this.#asking || this.#givenUp || this.#refusals >= MAX_REFUSALS) return; // an ask under way schedules the next
    const now = this.#env.now();
    this.#askAt = Math.max(now + wait, this.#askedAt + this.#pause);
    this.#cancel = startTimer(this.#env, this.#askAt - now, () => this.#ask());
  }

  async #ask() {
    const generation = this.#generation;
    this.#asking = true;
    this.#askedAt = this.#env.now();
    this.#askedFor = this.#expiresAt;
    let outcome = {};
    try {
      outcome = await this.#renew({ refused: this.#refused });
    } catch (error) {
      if (error?.final && generation === this.#generation) this.#givenUp = true;
    }
    if (generation !== this.#generation) return;
    this.#asking = false;
    this.#refused = outcome.refused === true;
    if (this.#refused) this.#refusals += 1;
    const renewed = outcome.expiresAt !== undefined && outcome.expiresAt !== this.#askedFor;
    if (renewed && Number.isFinite(outcome.remaining)) {
      this.#expiresAt = null;
      return this.expires(outcome.expiresAt, outcome.remaining);
    }
    if (this.#expiresAt !== this.#askedFor) return this.#schedule(0); // another end was named meanwhile
    if (renewed) return; // a server that has not told its clock names the end when it is near
    const left = this.#endsAt - this.#env.now();
    this.#schedule(left > 0 ? left / 2 : AFTER_END_MS);
  }
}
