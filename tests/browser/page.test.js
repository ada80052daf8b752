// The demo page in Chromium against the real server.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { delay, messages, note, openTab, say, signIn, startBrowser, startServer, status, whoIsOnline } from './harness.js';

const QUIET_MS = 4_000; // longer than the client's first wait and the tutorial's three seconds
const EVIL = '<img src=x onerror="window.ran=1"><b>bold</b>';

let browser;
let server;
let context;

before(async () => {
  browser = await startBrowser();
});
after(() => browser?.close());
beforeEach(async () => {
  server = await startServer();
  context = await browser.newContext();
});
afterEach(async () => {
  await context?.close();
  await server?.stop();
});

test('two tabs sign in, chat both ways, and see who is online', { timeout: 60_000 }, async () => {
  const alice = await openTab(context, server);
  await signIn(alice, 'Alice');
  await whoIsOnline(alice, ['Alice']);
  const bob = await openTab(context, server);
  await signIn(bob, 'Bob');
  await whoIsOnline(bob, ['Alice', 'Bob']);
  await whoIsOnline(alice, ['Alice', 'Bob']);
  await note(alice, 'Bob joined');

  await say(alice, 'hello from Alice');
  await say(bob, 'hello from Bob');
  for (const tab of [alice, bob]) {
    assert.equal(await messages(tab, 'hello from Alice'), 1);
    assert.equal(await messages(tab, 'hello from Bob'), 1);
  }
  assert.deepEqual(await alice.page.locator('#log .own .text').allTextContents(), ['hello from Alice']);
  assert.deepEqual(await bob.page.locator('#log .own .text').allTextContents(), ['hello from Bob']);
  await alice.page.locator('#outbox:empty').waitFor({ state: 'attached' });

  await bob.page.click('#sign-out');
  await status(bob, /^Signed out$/);
  await whoIsOnline(alice, ['Alice']);
  await note(alice, 'Bob left');
  assert.deepEqual([alice.errors, bob.errors], [[], []]);
});

test('sign out is for good, until somebody signs in again', { timeout: 60_000 }, async () => {
  const alice = await openTab(context, server);
  await signIn(alice, 'Alice');
  await alice.page.click('#sign-out');
  await status(alice, /^Signed out$/);
  await quiet(alice);
  await signIn(alice, 'Alice');
  await whoIsOnline(alice, ['Alice']);
  assert.equal(alice.sockets.length, 2);
});

test('markup in a text and in a name is shown as text and runs nothing', { timeout: 60_000 }, async () => {
  const alice = await openTab(context, server);
  await signIn(alice, 'Alice');
  const eve = await openTab(context, server);
  const name = '<img src=x onerror="window.ran=2">';
  await signIn(eve, name);
  await whoIsOnline(alice, ['Alice', name]);
  await say(eve, EVIL);
  for (const tab of [alice, eve]) {
    assert.equal(await messages(tab, EVIL), 1);
    await say(tab, 'done');
    await messages(tab, 'done');
    assert.equal(await tab.page.locator('img, b, #log script').count(), 0);
    assert.equal(await tab.page.evaluate(() => window.ran), undefined);
    assert.deepEqual(tab.requests.filter((url) => url.endsWith('/x')), []);
  }
  await note(alice, `${name} joined`);
  assert.deepEqual([alice.errors, eve.errors], [[], []]);
});

test('a third sign-in under the first name kicks the first tab, which says so and stays away', { timeout: 60_000 }, async () => {
  const first = await openTab(context, server);
  await signIn(first, 'Alice');
  const bob = await openTab(context, server);
  await signIn(bob, 'Bob');
  const third = await openTab(context, server);
  await signIn(third, 'Alice');

  await status(first, /^Signed in elsewhere$/);
  await first.page.locator('#notice').filter({ hasText: 'elsewhere' }).waitFor();
  await quiet(first);
  assert.equal(await third.page.locator('#status').textContent(), 'Online');
  await whoIsOnline(third, ['Alice', 'Bob']);
  await whoIsOnline(bob, ['Alice', 'Bob']);
  await say(third, 'still here');
  assert.equal(await messages(bob, 'still here'), 1);
  const notes = await bob.page.locator('#log .note .text').allTextContents();
  assert.deepEqual(notes, [], 'a kick makes nobody come or go');
});

test('both tabs survive a restart of the server, and what was queued arrives once, after the sign-in', { timeout: 90_000 }, async () => {
  const alice = await openTab(context, server);
  await signIn(alice, 'Alice');
  const bob = await openTab(context, server);
  await signIn(bob, 'Bob');
  const { port } = server;
  await server.stop();
  await status(alice, /^Reconnecting/);
  await status(bob, /^Reconnecting/);
  await say(alice, 'written offline');
  await alice.page.locator('#outbox li').filter({ hasText: 'written offline' }).waitFor();

  server = await startServer({ port });
  await status(alice, /^Online$/);
  await status(bob, /^Online$/);
  await whoIsOnline(alice, ['Alice', 'Bob']);
  await whoIsOnline(bob, ['Alice', 'Bob']);
  await messages(alice, 'written offline');
  await say(alice, 'after it');
  assert.equal(await messages(alice, 'after it'), 1);
  await messages(bob, 'after it');
  assert.equal(await messages(alice, 'written offline'), 1);
  await alice.page.locator('#outbox:empty').waitFor({ state: 'attached' });

  const sent = alice.sockets.flatMap(({ frames }) => frames).filter((frame) => frame.out?.data?.text === 'written offline');
  assert.equal(sent.length, 1);
  const { frames } = alice.sockets.at(-1);
  const signedIn = frames.findIndex((frame) => frame.in?.type === 'auth_success');
  assert.ok(signedIn >= 0 && signedIn < frames.indexOf(sent[0]), 'the queue waits for auth_success');
  // Bob may have come back after it was sent: then he may not have it, but never twice.
  assert.ok(await bob.page.locator('#log .message .text').getByText('written offline', { exact: true }).count() <= 1);
});

test('a tab that was cut off shows what it missed, once, and says nothing of it', { timeout: 60_000 }, async () => {
  const alice = await openTab(context, server);
  await signIn(alice, 'Alice');
  const bob = await openTab(context, server);
  await signIn(bob, 'Bob');
  await note(alice, 'Bob joined');
  await bob.page.route('**/token?*', (route) => route.abort()); // it stays away until that is lifted
  await bob.page.evaluate(() => window.sockets.at(-1).close(3001));
  await status(bob, /^Reconnecting/);
  await note(alice, 'Bob left');
  for (const text of ['while you were away', 'and this']) {
    await say(alice, text);
    await messages(alice, text);
  }
  await bob.page.unroute('**/token?*');
  await status(bob, /^Online$/);
  await say(alice, 'welcome back');
  await messages(bob, 'welcome back');
  assert.deepEqual(await bob.page.locator('#log .message .text').allTextContents(), ['while you were away', 'and this', 'welcome back']);
  const notes = await bob.page.locator('#log .note .text').allTextContents();
  assert.deepEqual(notes.filter((text) => text.includes('missed')), []);
});

test('the picture for the documentation', { skip: !process.env.SCREENSHOT && 'only with SCREENSHOT set', timeout: 60_000 }, async () => {
  const alice = await openTab(context, server);
  await alice.page.setViewportSize({ width: 1000, height: 600 });
  await signIn(alice, 'Alice');
  const bob = await openTab(context, server);
  await signIn(bob, 'Bob');
  await note(alice, 'Bob joined');
  const talk = [
    [alice, 'Hi Bob! Is the second shard listening?'],
    [bob, 'Loud and clear.'],
    [bob, 'And <b>this</b> stays text.'],
    [alice, 'As it should. Open a third tab and join us.'],
  ];
  for (const [tab, text] of talk) {
    await say(tab, text);
    for (const reader of [alice, bob]) assert.equal(await messages(reader, text), 1);
  }
  await alice.page.locator('#outbox:empty').waitFor({ state: 'attached' });
  const folder = new URL('../../docs/', import.meta.url);
  mkdirSync(folder, { recursive: true });
  await alice.page.screenshot({ path: new URL('demo.png', folder).pathname });
});

/** For some seconds the tab must open no further socket. */
async function quiet(tab) {
  const opened = tab.page.waitForEvent('websocket', { timeout: QUIET_MS }).then((socket) => socket.url(), () => null);
  assert.equal(await opened, null, 'a new connection was opened');
  await delay(0);
}
