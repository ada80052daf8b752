// Clients that are not the demo page: the tutorial's own class in Chromium, `ws`, and our class under Node.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Script } from 'node:vm';
import WebSocket from 'ws';
import { Uringcast } from '../../client/uringcast.js';
import { startBrowser, startServer, tutorialClass, within } from './harness.js';

let server;
before(async () => {
  server = await startServer();
});
after(() => server?.stop());

/** A bare client on `ws`: what came so far, and the next message that fits. */
function bareClient() {
  const socket = new WebSocket(server.ws);
  const inbox = [];
  const waiting = [];
  socket.on('error', () => {});
  socket.on('message', (data) => {
    const envelope = JSON.parse(data);
    const index = waiting.findIndex(({ fits }) => fits(envelope));
    if (index >= 0) waiting.splice(index, 1)[0].resolve(envelope);
    else inbox.push(envelope);
  });
  return {
    socket,
    send: (envelope) => socket.send(JSON.stringify(envelope)),
    next(what, fits) {
      const index = inbox.findIndex(fits);
      if (index >= 0) return inbox.splice(index, 1)[0];
      return within(new Promise((resolve) => waiting.push({ fits, resolve })), what);
    },
    type(type) {
      return this.next(type, (envelope) => envelope.type === type);
    },
    async signIn(name) {
      await this.type('system');
      this.send({ type: 'auth', data: { token: await server.token(name) } });
      return this.type('auth_success');
    },
    async end() {
      const closed = new Promise((resolve) => socket.once('close', (code) => resolve(code)));
      socket.close(1000);
      return within(closed, 'the close of a bare client');
    },
  };
}

test('a bare ws client signs in, chats, lists users, and closes cleanly', { timeout: 30_000 }, async () => {
  const client = bareClient();
  const { data } = await client.signIn('Node');
  assert.equal(data.user.username, 'Node');
  assert.equal(data.online_count, 1);
  client.send({ type: 'heartbeat' });
  assert.equal((await client.type('heartbeat')).message, 'pong');
  client.send({ type: 'message', id: 'm', data: { text: '  hi  ' } });
  const message = await client.type('message');
  assert.equal(message.data.text, 'hi');
  assert.deepEqual(message.data.sender, data.user);
  assert.equal((await client.type('ack')).id, 'm');
  client.send({ type: 'users', id: 'u' });
  const users = await client.type('users');
  assert.deepEqual([users.id, users.data.count, users.data.members], ['u', 1, [{ user: data.user, connections: 1 }]]);
  assert.equal(await client.end(), 1000);
});

test('our class under Node, on ws', { timeout: 30_000 }, async () => {
  const bare = bareClient();
  await bare.signIn('Bare');
  const client = new Uringcast(server.ws, { token: () => server.token('Ours'), env: { WebSocket } });
  const heard = new Promise((resolve) => client.on('message', ({ data }) => data.sender.username === 'Bare' && resolve(data.text)));
  const sent = client.send('queued before connecting');
  client.connect();
  assert.equal((await within(sent, 'the acknowledgement')).channel, 'lobby');
  assert.equal((await bare.type('message')).data.text, 'queued before connecting');
  bare.send({ type: 'message', data: { text: 'and back' } });
  assert.equal(await within(heard, 'the answer'), 'and back');
  const page = await client.users();
  assert.deepEqual(page.members.map(({ user }) => user.username).sort(), ['Bare', 'Ours']);
  client.disconnect();
  assert.equal((await bare.type('user_offline')).data.user.username, 'Ours');
  await bare.end();
});

test("our class under Node's own WebSocket", { timeout: 30_000 }, async (t) => {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 10)) return t.skip('this Node has none');
  const url = new URL('../../client/uringcast.js', import.meta.url);
  const program = `
    import { Uringcast } from ${JSON.stringify(url.href)};
    const client = new Uringcast(${JSON.stringify(server.ws)}, { token: ${JSON.stringify(await server.token('Own'))} });
    client.on('message', ({ data }) => console.log(data.sender.username + ': ' + data.text));
    client.on('state', ({ state, code, reason }) => state === 'closed' && console.log('closed', code, reason));
    client.connect();
    await client.send('hello');
    client.disconnect();`;
  const flags = major < 22 ? ['--experimental-websocket', '--no-warnings'] : [];
  const child = spawn(process.execPath, [...flags, '--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  t.after(() => child.kill('SIGKILL'));
  const code = await within(new Promise((resolve) => child.once('close', resolve)), 'the end of the program: nothing may keep it alive');
  assert.equal(code, 0);
  assert.equal(output, 'Own: hello\nclosed 1000 disconnected\n');
});

test("the tutorial's own class signs in and chats, unmodified", { timeout: 60_000 }, async (t) => {
  const source = tutorialClass((text) => {
    try {
      return Boolean(new Script(text));
    } catch {
      return false;
    }
  });
  if (source === null) return t.skip('the tutorial is not here (TUTORIAL names its file)');

  const browser = await startBrowser();
  t.after(() => browser.close());
  const page = await browser.newPage({ bypassCSP: true }); // the demo page's rule against inline scripts isn't meant here
  // A blank page, but of the server's own origin and really fetched from it: Chromium lets no other page reach loopback.
  await page.goto(`${server.http}/style.css`);
  await page.setContent('<!doctype html><title>blank</title>');
  await page.addScriptTag({ content: source });
  const bare = bareClient();
  await bare.signIn('Node');

  await page.evaluate(([url, token]) => {
    window.seen = [];
    window.wsClient = new WebSocketClient(url, { reconnectInterval: 3000, maxReconnectAttempts: 5, heartbeatInterval: 500 });
    wsClient.onOpen = () => wsClient.authenticate(token);
    wsClient.onMessage = (data) => seen.push(data);
    const handle = wsClient.handleMessage.bind(wsClient);
    window.pongs = 0;
    wsClient.handleMessage = (data) => (data.type === 'heartbeat' && (window.pongs += 1), handle(data)); // only listens
    wsClient.connect();
  }, [server.ws, await server.token('Tutorial')]);

  const online = await bare.type('user_online');
  assert.equal(online.data.user.username, 'Tutorial');
  assert.equal(online.data.online_count, 2);
  await page.waitForFunction(() => seen.some(({ type }) => type === 'auth_success'));
  bare.send({ type: 'message', data: { text: 'to the tutorial' } });
  await bare.type('message');
  await page.waitForFunction(() => seen.some(({ type, data }) => type === 'message' && data.text === 'to the tutorial' && data.sender.username === 'Node'));
  await page.evaluate(() => wsClient.sendMessage('from the tutorial'));
  const message = await bare.type('message');
  assert.deepEqual([message.data.sender.username, message.data.text], ['Tutorial', 'from the tutorial']);
  await page.waitForFunction(() => seen.some(({ type, data }) => type === 'message' && data.text === 'from the tutorial'));
  await page.waitForFunction(() => pongs >= 2);
  assert.deepEqual(await page.evaluate(() => seen.map(({ type }) => type)), ['system', 'auth_success', 'message', 'message']);

  await page.close();
  const offline = await bare.type('user_offline');
  assert.deepEqual([offline.data.user.username, offline.data.online_count], ['Tutorial', 1]);
  await bare.end();
});
