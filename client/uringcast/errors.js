// Why a connection or a request ends: the close codes, and the error that rejected promises hold.

export const NORMAL = 1000;
export const GOING_AWAY = 1001;
export const ABNORMAL = 1006;
export const UNAUTHORIZED = 4401;
export const KICKED = 4409;
export const DRAINING = 4503;
export const NO_SIGN_OF_LIFE = 4504;

const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);

/** Whether the client does not reconnect by itself after this close code. 4401 is final only for a token that is a string. */
export function isFinal(code) {
  return FINAL_CODES.has(code) || (code >= 4400 && code <= 4499);
}

/**
 * Why a request failed. `code` is the server's number, or one of `queue_full`, `offline`, `closed`, `expired`, `timeout`,
 * `connection_lost`, `no_token`. `outcome` is `refused` or `not_sent` when the request had no effect, `unknown` when it may
 * have had one: then sending it again with the same `idempotencyKey` is safe. `cause` is `{ code, reason, by }` when the
 * end of the connection is why.
 */
export class UringcastError extends Error {
  constructor(code, message, { outcome, idempotencyKey, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'UringcastError';
    this.code = code;
    this.outcome = outcome;
    this.idempotencyKey = idempotencyKey;
  }
}

/** `cause` is `{ code, reason, by }` of the close, if there was one. */
export function closedError(what, cause, more) {
  return new UringcastError('closed', `${what}${inWords(cause)}`, { outcome: 'not_sent', cause, ...more });
}

export function offlineError(what, cause) {
  return new UringcastError('offline', `${what}${inWords(cause)}`, { outcome: 'not_sent', cause });
}

/** The error for an `error` message of the server. 504 is the one code that leaves the outcome open. */
export function refusalError({ code, message = 'refused' }, idempotencyKey) {
  return new UringcastError(code, message, { outcome: code === 504 ? 'unknown' : 'refused', idempotencyKey });
}

/** For the end of a message, for example ` (4401 token revoked, by the server)`. */
export function inWords(cause) {
  if (!cause) return '';
  const by = { client: ', by this client', server: ', by the server' }[cause.by] ?? '';
  return ` (${[cause.code, cause.reason].filter(Boolean).join(' ')}${by})`;
}
