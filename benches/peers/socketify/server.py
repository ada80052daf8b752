"""uWebSockets by its Python binding, with one contract for all peers: /fanout sends every data message unchanged to
every connection of /fanout, its sender included, in one order for all; /echo sends it back. Python sees a message
once; the fan-out to the subscribers of the topic is the C++ library's own. It can't hold a publisher back: a
connection for which more than HELD_BYTES_MAX wait is closed, so that a loss is never silent."""

import argparse

from socketify import App, AppListenOptions, CompressOptions

HELD_BYTES_MAX = 1 << 30
PAYLOAD_BYTES_MAX = 1 << 20
TOPIC = "fanout"

parser = argparse.ArgumentParser()
parser.add_argument("--listen", default="127.0.0.1:0")
parser.add_argument("--deflate", action="store_true", help="agree to permessage-deflate: one compressor, no context")
args = parser.parse_args()
host, port = args.listen.rsplit(":", 1)

app = App()
pending = []


def publish(ws, message, opcode):
    """Not at once: while the library reads from a connection that one has its only write buffer, and every message
    to another would be a send of its own. After the turn, 32 messages leave in one."""
    if not pending:
        app.loop.loop.call_soon(flush)
    pending.append((message, opcode))


def flush():
    for message, opcode in pending:
        # The app's publish and not the connection's: the sender is a subscriber like the others.
        app.publish(TOPIC, message, opcode, args.deflate)
    pending.clear()


every = {
    "compression": CompressOptions.SHARED_COMPRESSOR if args.deflate else CompressOptions.DISABLED,
    "max_payload_length": PAYLOAD_BYTES_MAX,
    "max_backpressure": HELD_BYTES_MAX,
    "close_on_backpressure_limit": True,
    "idle_timeout": 0,
}
app.ws(
    "/fanout",
    {
        **every,
        "open": lambda ws: ws.subscribe(TOPIC),
        "message": publish,
    },
)
app.ws("/echo", {**every, "message": lambda ws, message, opcode: ws.send(message, opcode, args.deflate)})
app.any("/*", lambda response, request: response.write_status(404).end(""))
app.listen(
    AppListenOptions(port=int(port), host=host),
    lambda config: print(f"listening on ws://{host}:{config.port}", flush=True),
)
app.run()
