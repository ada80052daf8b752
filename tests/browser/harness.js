// What the browser tests share: the server as a child process, Chromium, tabs, and waiting for things with a deadline.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { chromium } from 'playwright-core';

export const DEADLINE_MS = 15_000;
const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const CHROMIUM_FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

export { delay };

/** The server in dev mode. `port` 0 takes any free one; a given one is for coming back at the same address. `config` is TOML. */
export async function startServer({ port = 0, config = '' } = {}) {
  const bin = process.env.URINGCAST_BIN;
  assert.ok(bin, 'URINGCAST_BIN must name the server, for example target/quick/uringcast');
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('URINGCAST_')));
  const folder = mkdtempSync(join(tmpdir(), 'uringcast-'));
  const file = join(folder, 'uringcast.toml');
  writeFileSync(file, config);
  const child = spawn(bin, ['--dev', '--listen', `127.0.0.1:${port}`, '--config', file], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  child.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  let log = '';
  child.stderr.on('data', (chunk) => (log += chunk));
  const exited = once(child, 'exit');
  const ready = (async () => {
    for await (const line of createInterface({ input: child.stdout })) {
      const found = /^listening on ws:\/\/(\S+):(\d+)\/ws \(\d+ shards?\)$/.exec(line);
      if (found) return Number(found[2]);
    }
    throw new Error('the server ended its output without the ready line');
  })();
  try {
    const boundPort = await within(ready, 'the ready line of the server');
    const address = `127.0.0.1:${boundPort}`;
    return {
      port: boundPort,
      http: `http://${address}`,
      /** Where the API listens; the configuration has to have `http.keys` and a port of its own. */
      api() {
        const found = /HTTP API on (http:\/\/\S+)/.exec(log);
        assert.ok(found, `where the API listens is in the log:\n${log}`);
        return found[1];
      },
      /** One number of /metrics. */
      async metric(name) {
        const text = await (await fetch(`${this.api()}/metrics`)).text();
        const line = text.split('\n').find((candidate) => candidate.startsWith(`${name} `));
        assert.ok(line, `${name} is not in\n${text}`);
        return Number(line.split(' ')[1]);
      },
      ws: `ws://${address}/ws`,
      token: async (name) => (await (await fetch(`http://${address}/token?name=${encodeURIComponent(name)}`)).json()).token,
      /** SIGTERM; the server must end by itself. */
      async stop() {
        if (child.exitCode !== null || child.signalCode !== null) return;
        child.kill('SIGTERM');
        try {
          const [code, signal] = await within(exited, 'the end of the server');
          assert.deepEqual({ code, signal }, { code: 0, signal: null }, `the server's end; its log:\n${log}`);
        } finally {
          child.kill('SIGKILL');
        }
      },
    };
  } catch (error) {
    child.kill('SIGKILL');
    error.message += `\nthe server's log:\n${log}`;
    throw error;
  }
}

/** Chromium with an empty profile of its own. */
export function startBrowser(options = {}) {
  return chromium.launch({ executablePath: CHROMIUM, headless: true, args: CHROMIUM_FLAGS, ...options });
}

/** A tab on the demo page that keeps what it must not lose: its sockets, its errors, what it asked for. */
export async function openTab(context, server) {
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const tab = { page, sockets: [], errors: [], requests: [] };
  page.on('pageerror', (error) => tab.errors.push(String(error)));
  page.on('console', (message) => {
    const { url } = message.location();
    if (message.type() === 'error' && !url.endsWith('/favicon.ico')) tab.errors.push(`${message.text()} ${url}`);
  });
  page.on('request', (request) => tab.requests.push(request.url()));
  page.on('websocket', (socket) => {
    const frames = [];
    tab.sockets.push({ url: socket.url(), frames });
    socket.on('framesent', ({ payload }) => frames.push({ out: JSON.parse(payload) }));
    socket.on('framereceived', ({ payload }) => frames.push({ in: JSON.parse(payload) }));
  });
  await page.addInitScript(() => {
    const sockets = (window.sockets = []); // for tests that cut one
    window.WebSocket = class extends WebSocket {
      constructor(...args) {
        super(...args);
        sockets.push(this);
      }
    };
  });
  await page.goto(server.http);
  return tab;
}

export async function signIn(tab, name) {
  await tab.page.fill('#name', name);
  await tab.page.click('#sign-in button');
  await status(tab, /^Online$/);
}

export async function say(tab, text) {
  await tab.page.fill('#text', text);
  await tab.page.press('#text', 'Enter');
}

export const status = (tab, pattern) => tab.page.locator('#status').filter({ hasText: pattern }).waitFor();

/** Waits until the log holds a message of exactly this text, and gives back how many do. */
export async function messages(tab, text) {
  const found = tab.page.locator('#log .message .text').getByText(text, { exact: true });
  await found.first().waitFor();
  return found.count();
}

export const note = (tab, text) => tab.page.locator('#log .note .text').getByText(text, { exact: true }).last().waitFor();

/** Waits until the page shows this count and exactly these people, in any order. */
export async function whoIsOnline(tab, names) {
  const want = JSON.stringify([String(names.length), ...[...names].sort()]);
  let seen;
  await until(async () => {
    const [count, ...shown] = await Promise.all([
      tab.page.locator('#count').textContent(),
      tab.page.locator('#people .username').allTextContents(),
    ]);
    seen = JSON.stringify([count, ...shown[0].sort()]);
    return seen === want;
  }, () => `people online: wanted ${want}, saw ${seen}`);
}

export async function within(promise, what, ms = DEADLINE_MS) {
  const timer = new AbortController();
  const late = delay(ms, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`${what} did not come within ${ms} ms`);
  });
  late.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}

async function until(holds, what, ms = DEADLINE_MS) {
  const end = performance.now() + ms;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(what());
    await delay(25);
  }
}

/** The tutorial's class as its page has it, or null without that file. The end is where it first parses as a whole. */
export function tutorialClass(parses) {
  const file = process.env.TUTORIAL ?? new URL('../../../shared/tutorial.txt', import.meta.url);
  let text;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
  const start = text.indexOf('class WebSocketClient {');
  assert.notEqual(start, -1, 'the tutorial has no class WebSocketClient');
  for (let end = text.indexOf('\n}', start); end !== -1; end = text.indexOf('\n}', end + 1)) {
    const source = text.slice(start, end + 2);
    if (parses(source)) return source;
  }
  assert.fail('the class in the tutorial does not parse');
}
