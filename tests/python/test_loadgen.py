"""The load generator's permessage-deflate against a peer by other hands: the `websockets` library, which takes its
context over from message to message, and inflates what the generator compresses."""

import asyncio
import json
import os
import subprocess
import tempfile
import threading
import unittest

from websockets.asyncio.server import broadcast, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

LOADGEN = os.path.join(os.path.dirname(os.environ["URINGCAST_BIN"]), "loadgen")


class Peer:
    """/fanout sends what comes to everyone, any other path sends it back; on a thread of its own."""

    def __init__(self, **agreement):
        self.agreement, self.room = agreement, set()
        self.loop, self.address = asyncio.new_event_loop(), None
        self.ready, self.enough = threading.Event(), None

    async def attend(self, connection):
        if connection.request.path != "/fanout":
            async for message in connection:
                await connection.send(message)
            return
        self.room.add(connection)
        try:
            async for message in connection:
                broadcast(self.room, message)
        finally:
            self.room.discard(connection)

    async def main(self):
        self.enough = asyncio.Event()
        # `None` compresses nothing by itself; the factory is the extension with the parameters that are wanted.
        factory = ServerPerMessageDeflateFactory(**self.agreement)
        async with serve(self.attend, "127.0.0.1", 0, compression=None, extensions=[factory]) as server:
            self.address = "ws://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
            self.ready.set()
            await self.enough.wait()

    def __enter__(self):
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.main(),))
        self.thread.start()
        if not self.ready.wait(20):
            raise TimeoutError("the peer does not listen")
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.enough.set)
        self.thread.join()
        self.loop.close()


def loadgen(*arguments):
    with tempfile.NamedTemporaryFile() as report:
        done = subprocess.run(
            [LOADGEN, *arguments, "--seconds", "0.6", "--warmup", "0.1", "--json", report.name],
            capture_output=True, text=True, timeout=60,
        )
        return done.returncode, json.load(report), done.stdout + done.stderr


class Compression(unittest.TestCase):
    def check(self, agreement, offer, agreed, forms=("fanout", "echo")):
        with Peer(**agreement) as peer:
            for form in forms:
                more = ["--plain", "-n", "6", "--window", "4", "--content", "feed"] if form == "fanout" else ["-c", "6"]
                arguments = [form, "--url", f"{peer.address}/{form}", "--payload", "600", "--verify-every", "2"]
                code, report, told = loadgen(*arguments, *more, f"--compress={offer}")
                self.assertEqual(code, 0, told)
                compression = report["compression"]
                self.assertEqual(compression["agreed"], [{"parameters": agreed, "connections": 6}], told)
                self.assertEqual(compression["compressed"], report["received"], told)
                # What it sent was shorter than its payload, too: it compressed, and the peer understood.
                self.assertLess(report["traffic"]["bytes_out_per_second"], 600 * report["traffic"]["sent_per_second"], told)

    def test_the_context_is_taken_over(self):
        self.check({}, "permessage-deflate; client_max_window_bits", "permessage-deflate")

    def test_every_message_by_itself(self):
        self.check(
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        )

    def test_smaller_windows(self):
        self.check(
            {"server_max_window_bits": 10, "client_max_window_bits": 9},
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
        )

    def test_an_offer_that_is_declined(self):
        with Peer() as peer:
            # The library keeps to whole bits of what it can: a window of 8 it doesn't have.
            url = f"{peer.address}/echo"
            code, report, told = loadgen("echo", "-c", "3", "--url", url, "--compress=permessage-deflate; server_max_window_bits=8")
            self.assertEqual((code, report["compression"]["agreed"], report["compression"]["declined"]), (0, [], 3), told)


if __name__ == "__main__":
    unittest.main()
