"""permessage-deflate with clients that others wrote: Python's `websockets` and `aiohttp`, each in its own words.

    URINGCAST_BIN=target/quick/uringcast python -m unittest discover -s tests/python -v
"""

import asyncio
import json
import os
import random
import unittest

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory as Offer

from test_tutorial import DEADLINE_S, Server, token

LINES = ["line %d of many that resemble each other" % n for n in range(30)]


def contents():
    """Texts and binaries of all sizes, some of which don't get shorter."""
    for size in [0, 1, 125, 255, 256, 1000, 65536, 1 << 20]:
        yield "é" * (size // 2)
        yield b"\x00\xff" * (size // 2)
        yield random.Random(size).randbytes(min(size, 70000))


class Compression(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--echo", environment={"URINGCAST_COMPRESSION__MODE": "on"})

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, "ended with %d" % code

    async def test_every_offer_of_websockets(self):
        for windows in [9, 10, 12, 15, None]:
            for no_takeover in [False, True]:
                for client_window in [True, 9, 15]:
                    offer = Offer(
                        server_max_window_bits=windows,
                        server_no_context_takeover=no_takeover,
                        client_max_window_bits=client_window,
                        client_no_context_takeover=no_takeover,
                    )
                    async with connect(self.server.url("/echo"), extensions=[offer], compression=None) as ws:
                        (agreed,) = ws.protocol.extensions
                        self.assertEqual(agreed.remote_max_window_bits, windows or 15)
                        self.assertEqual(agreed.remote_no_context_takeover, no_takeover)
                        # Never asked for by most, told to all: no message of a client refers to the one before it.
                        self.assertTrue(agreed.local_no_context_takeover)
                        for message in ["wort für wort " * 200, "wort für wort " * 100, os.urandom(3000)]:
                            await ws.send(message)
                            self.assertEqual(await asyncio.wait_for(ws.recv(), DEADLINE_S), message)

    async def test_websockets_echoes(self):
        async with connect(self.server.url("/echo"), max_size=None) as ws:
            for message in contents():
                await ws.send(message)
                self.assertEqual(await asyncio.wait_for(ws.recv(), DEADLINE_S), message)
            await ws.send(["frag", "men", "", "ted " * 400])
            self.assertEqual(await asyncio.wait_for(ws.recv(), DEADLINE_S), "fragmen" + "ted " * 400)
            await asyncio.wait_for(await ws.ping(b"between"), DEADLINE_S)

    async def test_aiohttp_echoes(self):
        async with aiohttp.ClientSession() as session:
            for window in [9, 12, 15]:
                async with session.ws_connect(self.server.url("/echo"), compress=window, max_msg_size=0) as ws:
                    self.assertTrue(ws.compress and ws.client_notakeover)
                    for message in contents():
                        if isinstance(message, str):
                            await ws.send_str(message)
                            self.assertEqual(await ws.receive_str(timeout=DEADLINE_S), message)
                        else:
                            await ws.send_bytes(message)
                            self.assertEqual(await ws.receive_bytes(timeout=DEADLINE_S), message)

    async def chat(self, send, receive, name):
        """Signs in, says a few things, and hears them: one by one, and as history."""
        self.assertEqual((await receive())["type"], "system")
        await send({"type": "auth", "data": {"token": token(name, name)}})
        self.assertEqual((await receive())["type"], "auth_success")
        for line in LINES:
            await send({"type": "message", "data": {"text": line + " " + "so it goes " * 40}})
            heard = await receive()
            self.assertEqual(heard["type"], "message")
            self.assertTrue(heard["data"]["text"].startswith(line), heard)
        await send({"type": "history", "id": "h", "data": {"channel": "lobby", "limit": len(LINES)}})
        history = await receive()
        texts = [publication["text"] for publication in history["data"]["publications"]]
        self.assertEqual([text[: len(line)] for text, line in zip(texts, LINES)], LINES)

    async def test_websockets_chats(self):
        async with connect(self.server.url()) as ws:
            self.assertIn("permessage-deflate", ws.response.headers["Sec-WebSocket-Extensions"])
            await self.chat(
                lambda value: ws.send(json.dumps(value)),
                lambda: self.parsed(asyncio.wait_for(ws.recv(), DEADLINE_S)),
                "websockets",
            )

    async def test_aiohttp_chats(self):
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(self.server.url(), compress=15) as ws:
                self.assertEqual(ws.compress, 15)
                await self.chat(ws.send_json, lambda: ws.receive_json(timeout=DEADLINE_S), "aiohttp")

    async def parsed(self, text):
        return json.loads(await text)

    async def test_too_much_once_inflated(self):
        async with connect(self.server.url("/echo"), max_size=None) as ws:
            await ws.send(b"\x00" * ((1 << 20) + 1))
            with self.assertRaises(ConnectionClosed) as closed:
                await asyncio.wait_for(ws.recv(), DEADLINE_S)
            self.assertEqual(closed.exception.rcvd.code, 1009)


class Forced(unittest.IsolatedAsyncioTestCase):
    async def test_a_client_without_it_is_refused(self):
        server = Server("--echo", environment={"URINGCAST_COMPRESSION__MODE": "forced"})
        try:
            async with connect(server.url("/echo")) as ws:
                await ws.send("compressed or not")
                self.assertEqual(await asyncio.wait_for(ws.recv(), DEADLINE_S), "compressed or not")
            with self.assertRaises(InvalidStatus) as refused:
                async with connect(server.url("/echo"), compression=None):
                    pass
            self.assertEqual(refused.exception.response.status_code, 400)
            self.assertIn(b"permessage-deflate", refused.exception.response.body)
        finally:
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
