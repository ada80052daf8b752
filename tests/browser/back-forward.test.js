// Our class in Chromium on a page that goes into the back/forward cache and comes out of it.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { startBrowser, startServer, within } from './harness.js';

const CLIENT = new URL('../../client/', import.meta.url);

/** Pages that the browser may keep, unlike the demo's; and the client's modules. */
async function startSite() {
  const site = createServer((request, response) => {
    const module = /^\/(?:uringcast\/)?[a-z]+\.js$/.test(request.url);
    response.setHeader('Content-Type', module ? 'text/javascript' : 'text/html');
    response.end(module ? readFileSync(new URL(`.${request.url}`, CLIENT)) : '<!doctype html><title>page</title><p>page');
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  return site;
}

test('the page comes back as it was, and is online again', { timeout: 60_000 }, async (t) => {
  const site = await startSite();
  t.after(() => site.close());
  const origin = `http://127.0.0.1:${site.address().port}`;
  const server = await startServer({ config: `origins = ["${origin}"]\n` });
  t.after(() => server.stop());
  const browser = await startBrowser({ ignoreDefaultArgs: ['--disable-back-forward-cache'] });
  t.after(() => browser.close());
  const page = await browser.newPage();
  await page.goto(`${origin}/one`);
  await page.evaluate(async ([url, token]) => {
    addEventListener('pageshow', ({ persisted }) => (window.persisted = persisted));
    const { Uringcast } = await import('/uringcast.js');
    window.client = new Uringcast(url, { token });
    window.states = [];
    window.client.on('state', ({ state }) => window.states.push(state));
    window.client.connect();
  }, [server.ws, await server.token('Alice')]);
  await page.waitForFunction(() => window.client.state === 'online');
  await page.goto(`${origin}/two`);
  // Chromium restores a page without the events that Playwright takes for a navigation's end.
  await page.goBack({ waitUntil: 'commit', timeout: 5_000 }).catch(() => {});
  await within(page.waitForFunction(() => window.persisted && window.client?.state === 'online'), 'the page of before, online');
  const states = await page.evaluate(() => window.states);
  assert.deepEqual(states, ['connecting', 'authenticating', 'online', 'waiting', 'connecting', 'authenticating', 'online']);
});
