// Subscribes to a channel and prints each publication, over reconnects and restarts of the server. It needs no package:
// Node 22 and later have WebSocket, Node 20 has it with --experimental-websocket.
//
//     PUSH_TOKEN=… node subscribe.mjs CHANNEL
//
// PUSH_URL is the address of the server, ws://127.0.0.1:2345/ws unless it is set. Each publication is a line: its offset,
// then its data. The names of the messages and fields are explained in docs/protocol.md. The client in client/ does all of this, and
// renews tokens as well: this file shows what is behind it.

import { setTimeout as sleep } from 'node:timers/promises';

const URL_ = process.env.PUSH_URL ?? 'ws://127.0.0.1:2345/ws';
// After this much silence the client asks for a sign of life, and after as much again it takes the connection for dead.
const SILENCE_MS = 20_000;

const [channel] = process.argv.slice(2);
if (channel === undefined || process.argv.length > 3) {
  console.error('usage: subscribe.mjs CHANNEL');
  process.exit(1);
}

let epoch; // the channel's, since the last `subscribed`
let position; // up to here everything was received or named by a gap: {epoch, offset}

/** Whether another try would end in the same way (docs/protocol.md, "Closing codes"). */
const isFinal = (code) => [1000, 1002, 1003, 1007, 1008, 1009, 1010].includes(code) || (code >= 4400 && code < 4500);

function received(publication) {
  console.log(publication.offset, JSON.stringify(publication.data ?? publication.text));
  position = { epoch, offset: publication.offset };
}

/** Handles one message of the server. Returns why there is no use in going on, if that is so. */
function handle({ type, code, message, data = {} }) {
  if (type === 'auth_failed') return message;
  if (data.channel !== channel) return undefined; // the lobby's messages
  switch (type) {
    case 'subscribed':
      epoch = data.epoch;
      position ??= { epoch, offset: data.offset };
      // With "recovered": false there are none, and a gap follows that names what is missing.
      for (const publication of data.publications ?? []) received(publication);
      break;
    case 'publication':
    case 'message':
      received(data);
      break;
    case 'gap':
      console.log(`lost ${data.from} to ${data.to}: ${data.reason}`);
      position = { epoch, offset: data.to };
      break;
    case 'error':
    case 'unsubscribed':
      return `${type} ${code} ${message ?? ''}`.trim();
  }
  return undefined;
}

/** One connection, from its sign-in to its end. Resolves with {code, reason, signedIn, retryMs, final}. */
function stayConnected() {
  return new Promise((resolve) => {
    const end = { code: 1006, reason: '', signedIn: false };
    const socket = new WebSocket(URL_, 'uringcast.v1');
    let timer;
    const finish = (more) => {
      clearTimeout(timer);
      socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close();
      resolve({ ...end, ...more });
    };
    // The API of WebSocket hides pings, so this client asks by itself whether the server is still there.
    const watch = (asked) => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (asked || socket.readyState !== WebSocket.OPEN) return finish({ reason: 'no sign of life' });
        socket.send('{"type":"heartbeat"}');
        return watch(true);
      }, SILENCE_MS);
    };
    watch(false);
    socket.onopen = () => {
      // `recover` asks for everything that was published after this position.
      const channels = [position ? { channel, recover: position } : { channel }];
      socket.send(JSON.stringify({ type: 'auth', data: { token: process.env.PUSH_TOKEN, channels } }));
    };
    socket.onmessage = (event) => {
      watch(false);
      const message = JSON.parse(event.data);
      if (message.type === 'auth_success') end.signedIn = true;
      // The server stops, and spreads over time when its clients come back.
      if (message.type === 'draining') end.retryMs = message.data.reconnect_in_ms;
      const why = handle(message);
      if (why !== undefined) finish({ final: true, reason: why });
    };
    socket.onclose = ({ code, reason }) => finish({ code, reason, final: isFinal(code) });
    // A close event follows an error, but not from each implementation.
    socket.onerror = () => finish({ reason: 'the connection failed' });
  });
}

// The pause between two tries grows up to 30 s, and is random, so that the clients of a server that restarts do not come
// back all at once.
for (let failures = 0; ; ) {
  const end = await stayConnected();
  const why = end.reason || `closed with ${end.code}`;
  if (end.final) {
    console.error(`subscribe.mjs: ${why}`);
    process.exit(1);
  }
  failures = end.signedIn ? 0 : failures + 1;
  const pause = end.retryMs ?? Math.random() * Math.min(30_000, 500 * 2 ** failures);
  console.error(`${why}: connecting again in ${Math.round(pause)} ms`);
  await sleep(pause);
}
