// Node's `ws` with one contract for all peers: /fanout sends every data message unchanged to every connection of
// /fanout, its sender included, in one order for all; /echo sends it back. With --deflate it agrees to permessage-deflate
// as the library does by itself, a compressor for each connection. When the library holds too much for one connection,
// nothing more is read from publishers until it has written it.

import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";

/// What may wait for one connection before publishers wait for it.
const HELD_BYTES_MAX = 1024 * 1024;
const BACKLOG = 4096;

const { values } = parseArgs({
  options: { listen: { type: "string", default: "127.0.0.1:0" }, deflate: { type: "boolean", default: false } },
});
const address = new URL(`ws://${values.listen}`);

const room = new Set();
let behind = 0;

function caughtUp() {
  behind -= 1;
  if (behind === 0) for (const client of room) client.resume();
}

function broadcast(data, isBinary) {
  for (const client of room) {
    if (client.bufferedAmount < HELD_BYTES_MAX) {
      client.send(data, { binary: isBinary });
      continue;
    }
    behind += 1;
    if (behind === 1) for (const publisher of room) publisher.pause();
    // Called when it is written, and when the connection is gone.
    client.send(data, { binary: isBinary }, caughtUp);
  }
}

function echo(client, data, isBinary) {
  if (client.bufferedAmount < HELD_BYTES_MAX) {
    client.send(data, { binary: isBinary });
    return;
  }
  client.pause();
  client.send(data, { binary: isBinary }, () => client.resume());
}

const routes = {
  "/fanout": (client) => {
    room.add(client);
    if (behind > 0) client.pause();
    client.on("message", broadcast);
    client.on("close", () => room.delete(client));
  },
  "/echo": (client) => client.on("message", (data, isBinary) => echo(client, data, isBinary)),
};

// The level and the least size are those of uringcast; the library's own are 6 and 1,024.
const deflate = { zlibDeflateOptions: { level: 1 }, threshold: 256 };
const perMessageDeflate = values.deflate && deflate;
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate, clientTracking: false });
const server = createServer((_, response) => response.writeHead(404).end());
server.on("upgrade", (request, socket, head) => {
  const route = routes[request.url.split("?")[0]];
  if (!route) {
    socket.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    return;
  }
  sockets.handleUpgrade(request, socket, head, (client) => {
    // A client that breaks off is no news: "close" follows.
    client.on("error", () => {});
    route(client);
  });
});
server.listen({ host: address.hostname, port: Number(address.port || 80), backlog: BACKLOG }, () => {
  const { address: host, port } = server.address();
  console.log(`listening on ws://${host}:${port}`);
});
