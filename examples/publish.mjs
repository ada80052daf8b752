// Publishes one JSON value to a channel, with Node 18 or later and no package.
//
//     PUSH_API_KEY=… node publish.mjs CHANNEL JSON [IDEMPOTENCY_KEY]
//
// PUSH_API_URL is the address of the server's HTTP API, http://127.0.0.1:2346 unless it is set.

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

const API = process.env.PUSH_API_URL ?? 'http://127.0.0.1:2346';
const TRIES = 5;

/** The server refused the publication, or its outcome is unknown. */
class PublishError extends Error {}

/** Publishes `data` and returns the server's answer: the channel's epoch and the publication's offset. */
async function publish(channel, data, idempotencyKey = randomUUID()) {
  // All tries of one publication share this key, so that the server publishes it once.
  const body = JSON.stringify({ channel, data, idempotency_key: idempotencyKey });
  const headers = { authorization: `Bearer ${process.env.PUSH_API_KEY}`, 'content-type': 'application/json' };
  let failure;
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    let pause = 200 * 2 ** attempt;
    try {
      const answer = await fetch(`${API}/api/publish`, { method: 'POST', headers, body, signal: AbortSignal.timeout(15_000) });
      if (answer.ok) return await answer.json();
      failure = `HTTP ${answer.status}: ${await answer.text()}`;
      // 503: not published. 504: the outcome is unknown. The same request may be sent again after both.
      if (answer.status !== 503 && answer.status !== 504) throw new PublishError(failure);
      const seconds = answer.headers.get('retry-after');
      if (seconds !== null) pause = 1000 * Number(seconds);
    } catch (error) {
      if (error instanceof PublishError) throw error;
      // The connection broke or nothing came in time. The outcome is unknown.
      failure = `no answer: ${error.cause?.message ?? error.message}`;
    }
    if (attempt < TRIES - 1) await sleep(pause);
  }
  throw new PublishError(`given up after ${TRIES} tries with the key ${idempotencyKey}: ${failure}`);
}

const [channel, json, ...key] = process.argv.slice(2);
if (json === undefined || key.length > 1) {
  console.error('usage: publish.mjs CHANNEL JSON [IDEMPOTENCY_KEY]');
  process.exit(1);
}
try {
  console.log(JSON.stringify(await publish(channel, JSON.parse(json), ...key)));
} catch (error) {
  console.error(`publish.mjs: ${error.message}`);
  process.exitCode = 1;
}
