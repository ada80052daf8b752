// What somebody does who reads README.md for the first time, in Chromium: its samples on a page of another origin and on a
// page that was opened as a file; what the backend sends, on the demo page; and how the demo page looks and holds still.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { messages, openTab, say, signIn, startBrowser, startServer, status, whoIsOnline, within } from './harness.js';

const README = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
const [CLIENT, ROOM] = [...README.matchAll(/^```js\n([^]*?)^```/gm)].map(([, code]) => code);
const KEY = 'a key of the browser tests, ASCII'.replaceAll(' ', '_');
const API = `[http]\nlisten = "127.0.0.1:0"\nkeys = ["${KEY}"]\n`;

let browser;
let context;
const ends = [];

before(async () => {
  browser = await startBrowser();
});
after(() => browser?.close());
beforeEach(async () => {
  context = await browser.newContext();
});
afterEach(async () => {
  await context?.close();
  for (const end of ends.splice(0).reverse()) await end();
});

async function started(config) {
  const server = await startServer({ config });
  ends.push(() => server.stop());
  return server;
}

/** README.md's samples as one module, for a server at a port of its own. What it prints comes to `told`. */
function samplePage(server, more = '') {
  const code = CLIENT.replaceAll('127.0.0.1:2345', `127.0.0.1:${server.port}`);
  return `<!doctype html><title>sample</title><script type="module">${code}${more}\nconsole.log('the end');</script>`;
}

async function runs(page, url) {
  const told = [];
  page.on('console', (message) => told.push(message.text()));
  page.on('pageerror', (error) => told.push(String(error)));
  const end = page.waitForEvent('console', { predicate: (message) => message.text() === 'the end', timeout: 15_000 });
  end.catch(() => {});
  await page.goto(url);
  await end.catch((error) => assert.fail(`${error.message}\n${told.join('\n')}`));
  return told;
}

async function api(server, path, body) {
  const response = await fetch(`${server.api()}/api/${path}`, {
    method: 'POST', headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' }, body: JSON.stringify(body),
  });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

test('the samples run on a page of another origin, and survive what a backend sends', { timeout: 60_000 }, async () => {
  const server = await started(`origins = ["http://localhost:*"]\n[namespaces.chat]\npublish = "members"\n${API}`);
  const site = createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/html' }).end(samplePage(server, ROOM));
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  ends.push(() => new Promise((done) => site.close(done)));
  const page = await context.newPage();
  const told = await runs(page, `http://localhost:${site.address().port}/`);
  assert.ok(told.includes('Alice: hello'), told.join('\n'));
  assert.ok(told.some((line) => /^1 \{price: 42\}$|^1 JSHandle@object$|^1 \[object Object\]$/.test(line)), told.join('\n'));

  const next = page.waitForEvent('console', { predicate: (message) => message.text().includes('Back in five'), timeout: 15_000 });
  await api(server, 'broadcast', { channels: ['lobby', 'chat:room1'], text: 'Back in five minutes' });
  assert.equal((await next).text(), 'the backend: Back in five minutes');
  assert.deepEqual(told.filter((line) => line.includes('Error')), []);
});

test('the samples run on a page that was opened as a file, if files are listed', { timeout: 60_000 }, async () => {
  const server = await started('origins = ["file://"]');
  const folder = mkdtempSync(join(tmpdir(), 'uringcast-page-'));
  ends.push(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'page.html'), samplePage(server));
  const told = await runs(await context.newPage(), `file://${folder}/page.html`);
  assert.ok(told.includes('Alice: hello'), told.join('\n'));
});

test('the demo page shows what the backend sends, as nobody else could send it', { timeout: 60_000 }, async () => {
  const server = await started(API);
  const tab = await openTab(context, server);
  await signIn(tab, 'Announcement');
  await api(server, 'publish', { channel: 'lobby', text: '<b>Back in five minutes</b>' });
  assert.equal(await messages(tab, '<b>Back in five minutes</b>'), 1);
  await api(server, 'publish', { channel: 'lobby', text: 'And now' });
  await messages(tab, 'And now');
  await api(server, 'publish', { channel: 'lobby', data: { price: 1.5 } });
  await messages(tab, '{"price":1.5}');
  await say(tab, 'Is that so?');
  await messages(tab, 'Is that so?');
  assert.deepEqual(await tab.page.locator('#log .backend .text').allTextContents(), ['<b>Back in five minutes</b>', 'And now', '{"price":1.5}']);
  assert.deepEqual(await tab.page.locator('#log .backend .sender').allTextContents(), ['Announcement']);
  assert.deepEqual(await tab.page.locator('#log .own .sender').allTextContents(), ['Announcement (you)']);
  // Over a reconnect too: recovered publications come the same way.
  await tab.page.evaluate(() => window.sockets.at(-1).close(3001));
  await status(tab, /^Online$/);
  assert.deepEqual(tab.errors, []);
});

test('a long name is cut between characters, in any alphabet', { timeout: 60_000 }, async () => {
  const server = await started();
  for (const [typed, shown] of [['Ж'.repeat(70), 'Ж'.repeat(64)], ['张'.repeat(70), '张'.repeat(42)], ['🦀'.repeat(70), '🦀'.repeat(32)]]) {
    const tab = await openTab(context, server);
    await signIn(tab, typed);
    await whoIsOnline(tab, [shown]);
    await tab.page.click('#sign-out');
    await status(tab, /^Signed out$/);
    assert.deepEqual(tab.errors, []);
    await tab.page.close();
  }
  for (const query of ['', '?name=', '?name=%20', '?name=%E5']) {
    const answer = await fetch(`${server.http}/token${query}`);
    assert.equal(answer.status, 400);
    assert.match(await answer.text(), /a name is needed, in UTF-8: \/token\?name=Alice/);
  }
});

test('nothing moves at a sign-in, and the page has an icon', { timeout: 60_000 }, async () => {
  const server = await started();
  for (const viewport of [{ width: 1000, height: 600 }, { width: 360, height: 640 }]) {
    const tab = await openTab(context, server);
    await tab.page.setViewportSize(viewport);
    const place = () => tab.page.locator('h1').boundingBox();
    const [before, header] = [await place(), await tab.page.locator('header').boundingBox()];
    await tab.page.evaluate(() => {
      window.shifts = [];
      // Those right after an input count as well: it is the sign-in that is looked at.
      new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map(({ value }) => value))).observe({ type: 'layout-shift', buffered: false });
    });
    await signIn(tab, 'Alice');
    await whoIsOnline(tab, ['Alice']);
    await tab.page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    assert.deepEqual([await place(), await tab.page.locator('header').boundingBox()], [before, header]);
    assert.deepEqual(await tab.page.evaluate(() => window.shifts), []);
    const wide = await tab.page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    assert.equal(wide, false, 'nothing sticks out of a narrow page');
    await tab.page.click('#sign-out');
    await tab.page.close();
  }
  const icon = await fetch(`${server.http}/favicon.ico`);
  assert.deepEqual([icon.status, icon.headers.get('content-type')], [200, 'image/svg+xml']);
  const href = /rel="icon"[^>]*href="([^"]+)"/.exec(await (await fetch(server.http)).text())[1];
  assert.equal((await fetch(server.http + href)).status, 200);
});

test('pictures of the demo page', { skip: !process.env.PICTURES && 'only with PICTURES=FOLDER set', timeout: 90_000 }, async () => {
  const server = await started(API);
  for (const colorScheme of ['light', 'dark']) {
    for (const [size, viewport] of [['wide', { width: 1000, height: 600 }], ['phone', { width: 390, height: 760 }]]) {
      const own = await browser.newContext({ colorScheme, viewport });
      const alice = await openTab(own, server);
      const shot = (what) => alice.page.screenshot({ path: join(process.env.PICTURES, `${size}-${colorScheme}-${what}.png`) });
      await alice.page.setViewportSize(viewport);
      await shot('door');
      await signIn(alice, 'Alice');
      const bob = await openTab(own, server);
      await signIn(bob, '张三 who has a rather long name, longer than a phone is wide');
      await say(bob, 'Hello Alice. This is a text that is long enough to be broken into more than one line on a phone.');
      await say(alice, 'Hi!');
      await messages(bob, 'Hi!');
      await api(server, 'publish', { channel: 'lobby', text: `The server is restarted at noon (${size}).` });
      await messages(alice, `The server is restarted at noon (${size}).`);
      await shot('room');
      await within(own.close(), 'the end of the tabs');
    }
  }
});
