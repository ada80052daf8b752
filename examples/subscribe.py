"""Subscribes to a channel and prints each publication, over reconnects and restarts of the server.

    pip install websockets
    PUSH_TOKEN=… python3 subscribe.py CHANNEL

PUSH_URL is the address of the server, ws://127.0.0.1:2345/ws unless it is set. Each publication is a line: its offset, then its data.
The names of the messages and fields are explained in docs/protocol.md.
"""

import json
import os
import random
import sys
import time

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

URL = os.environ.get("PUSH_URL", "ws://127.0.0.1:2345/ws")
# These close codes say that another try would end in the same way (docs/protocol.md, "Closing codes").
FINAL = {1000, 1002, 1003, *range(1007, 1011), *range(4400, 4500)}


class Final(Exception):
    """There is no use in connecting again."""


class Subscriber:
    def __init__(self, channel, token):
        self.channel = channel
        self.token = token
        # The epoch of the channel since the last `subscribed`.
        self.epoch = None
        # The place up to which everything was received, or was named by a gap. None before the first `subscribed`.
        self.position = None

    def run(self):
        """Connects until the end is final. The pause between two tries grows up to 30 s, and is random, so that the
        clients of a server that restarts do not come back all at once."""
        failures = 0
        while True:
            self.pause = None
            try:
                self.stay_connected()
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd else 1006
                why = f"closed with {code} {error.rcvd.reason if error.rcvd else ''}".rstrip()
                if code in FINAL:
                    raise Final(why) from None
            except InvalidStatus as error:
                status = error.response.status_code
                why = f"HTTP {status}"
                if 400 <= status < 500 and status != 429:
                    raise Final(f"{why}: {error.response.body.decode(errors='replace').strip()}") from None
            except (OSError, InvalidHandshake) as error:  # a TimeoutError is an OSError
                why = str(error) or type(error).__name__
            failures = 0 if self.signed_in else failures + 1
            pause = random.uniform(0, min(30, 0.5 * 2**failures)) if self.pause is None else self.pause
            print(f"{why}: connecting again in {pause:.1f} s", file=sys.stderr)
            time.sleep(pause)

    def stay_connected(self):
        """One connection, from its sign-in to its end. The library pings the server, so a dead connection ends too."""
        self.signed_in = False
        with connect(URL, subprotocols=["uringcast.v1"]) as socket:
            wanted = {"channel": self.channel}
            if self.position is not None:
                # The answer brings everything that was published after this position.
                wanted["recover"] = self.position
            socket.send(json.dumps({"type": "auth", "data": {"token": self.token, "channels": [wanted]}}))
            while True:
                self.handle(json.loads(socket.recv()))

    def handle(self, message):
        data = message.get("data", {})
        if message["type"] == "auth_success":
            self.signed_in = True
        elif message["type"] == "auth_failed":
            raise Final(message["message"])
        elif message["type"] == "draining":
            # The server stops, and spreads over time when its clients come back.
            self.pause = data["reconnect_in_ms"] / 1000
        elif data.get("channel") != self.channel:
            pass  # the lobby's messages
        elif message["type"] == "subscribed":
            self.epoch = data["epoch"]
            if self.position is None:
                self.move_to(data["offset"])
            # With "recovered": false there are none, and a gap follows that names what is missing.
            for publication in data.get("publications", []):
                self.received(publication)
        elif message["type"] in ("publication", "message"):
            self.received(data)
        elif message["type"] == "gap":
            print(f"lost {data['from']} to {data['to']}: {data['reason']}", flush=True)
            self.move_to(data["to"])
        elif message["type"] in ("error", "unsubscribed"):
            raise Final(f"{message['type']} {message['code']} {message.get('message', '')}".rstrip())

    def received(self, publication):
        content = publication["data"] if "data" in publication else publication["text"]
        print(publication["offset"], json.dumps(content), flush=True)
        self.move_to(publication["offset"])

    def move_to(self, offset):
        self.position = {"epoch": self.epoch, "offset": offset}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: subscribe.py CHANNEL")
    try:
        Subscriber(sys.argv[1], os.environ["PUSH_TOKEN"]).run()
    except Final as error:
        sys.exit(f"subscribe.py: {error}")
    except KeyboardInterrupt:
        pass
