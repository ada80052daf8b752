"""The tutorial's flow with Python's `websockets`, and with nothing but a socket of the standard library.

    URINGCAST_BIN=target/quick/uringcast python -m unittest discover -s tests/python -v

The server is started on a free port of the loopback interface and stopped by its own pid.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_sync

BINARY = os.path.abspath(os.environ.get("URINGCAST_BIN", "target/quick/uringcast"))
SECRET = "a secret of the Python tests, 32 bytes and more"
DEADLINE_S = 20


def token(user, name, ttl_s=3600):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps({"user_id": user, "username": name, "exp": int(time.time()) + ttl_s}).encode())
    signature = hmac.new(SECRET.encode(), head + b"." + body, hashlib.sha256).digest()
    return (head + b"." + body + b"." + part(signature)).decode()


class Server:
    def __init__(self, *flags, environment={}):
        environment = {**environment, "URINGCAST_AUTH__HS256_SECRET": SECRET}
        environment |= {k: v for k, v in os.environ.items() if not k.startswith("URINGCAST_")}
        self.process = subprocess.Popen(
            [BINARY, "--listen", "127.0.0.1:0", "--shards", "2", *flags],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        timer = threading.Timer(DEADLINE_S, self.process.kill)
        timer.start()
        line = self.process.stdout.readline().decode()
        timer.cancel()
        found = re.fullmatch(r"listening on ws://([^/]+):(\d+)/ws \(2 shards\)\n", line)
        if not found:
            self.process.kill()
            self.process.communicate()
            raise AssertionError("no ready line: %r" % line)
        self.host, self.port = found.group(1), int(found.group(2))

    def url(self, path="/ws"):
        return "ws://%s:%d%s" % (self.host, self.port, path)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
        return code


class Tutorial(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--echo")

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, "ended with %d" % code

    async def receive(self, ws, kind=None):
        value = json.loads(await asyncio.wait_for(ws.recv(), DEADLINE_S))
        if kind is not None:
            self.assertEqual(value["type"], kind, value)
        return value

    async def send(self, ws, **value):
        await ws.send(json.dumps(value))

    async def sign_in(self, ws, user, name):
        await self.receive(ws, "system")
        await self.send(ws, type="auth", data={"token": token(user, name)})
        return await self.receive(ws, "auth_success")

    async def test_two_users_chat_and_one_is_replaced(self):
        # `compression` is offered by default; a server that declines it must still be spoken to.
        async with connect(self.server.url()) as alice, connect(self.server.url()) as bob:
            success = await self.sign_in(alice, 1, "Alice")
            self.assertEqual(success["data"]["user"], {"id": 1, "username": "Alice"})
            self.assertEqual(success["data"]["online_count"], 1)
            success = await self.sign_in(bob, "zwei", "Böb 小明")
            self.assertEqual(success["data"]["online_count"], 2)
            online = await self.receive(alice, "user_online")
            self.assertEqual(online["data"]["user"], {"id": "zwei", "username": "Böb 小明"})
            self.assertEqual(online["data"]["online_count"], 2)

            await self.send(alice, type="message", data={"text": " <hello> "})
            heard = [await self.receive(ws, "message") for ws in (alice, bob)]
            self.assertEqual(heard[0], heard[1])
            self.assertEqual(heard[0]["data"]["text"], "&lt;hello&gt;")
            self.assertEqual(heard[0]["data"]["sender"]["id"], 1)

            await self.send(bob, type="heartbeat")
            self.assertEqual((await self.receive(bob, "heartbeat"))["message"], "pong")
            await self.send(bob, type="users", id="u1")
            users = await self.receive(bob, "users")
            self.assertEqual((users["id"], users["data"]["count"]), ("u1", 2))

            async with connect(self.server.url(), compression=None) as again:
                await self.sign_in(again, 1, "Alice")
                await self.receive(alice, "kicked")
                with self.assertRaises(ConnectionClosed) as closed:
                    await asyncio.wait_for(alice.recv(), DEADLINE_S)
                self.assertEqual(closed.exception.rcvd.code, 4409)
                await self.send(again, type="message", data={"text": "it's me"})
                # No online or offline of Alice in between.
                self.assertEqual((await self.receive(bob, "message"))["data"]["text"], "it&#039;s me")
            offline = await self.receive(bob, "user_offline")
            self.assertEqual((offline["data"]["user"]["id"], offline["data"]["online_count"]), (1, 1))

    async def test_errors(self):
        async with connect(self.server.url()) as ws:
            await self.receive(ws, "system")
            for sent, code in [
                ("{", 400), ('{"type":"nonsense"}', 400), ('{"type":"message","data":{"text":"x"}}', 401),
                ('{"type":"auth","data":{}}', 400),
            ]:
                await ws.send(sent)
                self.assertEqual((await self.receive(ws, "error"))["code"], code)
            await self.send(ws, type="auth", data={"token": token(5, "Late", ttl_s=-10)})
            await self.receive(ws, "auth_failed")
            with self.assertRaises(ConnectionClosed) as closed:
                await asyncio.wait_for(ws.recv(), DEADLINE_S)
            self.assertEqual(closed.exception.rcvd.code, 4401)

    async def test_refused_upgrades(self):
        for path, origin, status in [("/nope", None, 404), ("/ws", "http://evil.example", 403)]:
            with self.assertRaises(InvalidStatus) as refused:
                async with connect(self.server.url(path), origin=origin):
                    pass
            self.assertEqual(refused.exception.response.status_code, status)

    async def test_subprotocol(self):
        async with connect(self.server.url(), subprotocols=["chat", "uringcast.v1"]) as ws:
            self.assertEqual(ws.subprotocol, "uringcast.v1")
        async with connect(self.server.url(), subprotocols=["chat"]) as ws:
            self.assertIsNone(ws.subprotocol)

    async def test_echo_of_all_sizes_and_fragments(self):
        async with connect(self.server.url("/echo"), max_size=None) as ws:
            for size in [0, 1, 125, 126, 65535, 65536, 1 << 20]:
                for message in (b"\x00\xff" * (size // 2), "é" * (size // 2)):
                    await ws.send(message)
                    self.assertEqual(await asyncio.wait_for(ws.recv(), DEADLINE_S), message)
            await ws.send(["frag", "men", "", "ted 小"])
            self.assertEqual(await asyncio.wait_for(ws.recv(), DEADLINE_S), "fragmented 小")
            pong = await ws.ping(b"are you there")
            await asyncio.wait_for(pong, DEADLINE_S)

    async def test_a_crowd(self):
        async def member(number, ready, everyone):
            # With its bounded queue the library stops reading when nobody takes what came, the close included.
            async with connect(self.server.url(), max_queue=None) as ws:
                await self.sign_in(ws, "crowd %d" % number, "Member %d" % number)
                ready.append(ws)
                if len(ready) == 40:
                    everyone.set()
                await asyncio.wait_for(everyone.wait(), DEADLINE_S)
                await self.send(ws, type="message", data={"text": "from %d" % number})
                texts = []
                while len(texts) < 40:
                    value = await self.receive(ws)
                    if value["type"] == "message":
                        texts.append((value["data"]["offset"], value["data"]["text"]))
                return texts

        ready, everyone = [], asyncio.Event()
        logs = await asyncio.gather(*(member(n, ready, everyone) for n in range(40)))
        self.assertEqual(len(set(map(tuple, logs))), 1)
        offsets = [offset for offset, _ in logs[0]]
        self.assertEqual(offsets, list(range(offsets[0], offsets[0] + 40)))
        self.assertEqual({text for _, text in logs[0]}, {"from %d" % n for n in range(40)})


class Threads(unittest.TestCase):
    """The blocking client, as a script would use it."""

    def test_the_blocking_client(self):
        server = Server()
        try:
            with connect_sync(server.url()) as ws:
                self.assertEqual(json.loads(ws.recv(DEADLINE_S))["type"], "system")
                ws.send(json.dumps({"type": "auth", "data": {"token": token(1, "Alice")}}))
                self.assertEqual(json.loads(ws.recv(DEADLINE_S))["type"], "auth_success")
                ws.send(json.dumps({"type": "message", "id": "m", "data": {"text": "hi"}}))
                self.assertEqual(json.loads(ws.recv(DEADLINE_S))["type"], "message")
                ack = json.loads(ws.recv(DEADLINE_S))
                self.assertEqual((ack["type"], ack["id"], ack["data"]["offset"]), ("ack", "m", 1))
                # It says good-bye to us, not the other way round.
                server.process.send_signal(signal.SIGTERM)
                draining = json.loads(ws.recv(DEADLINE_S))
                self.assertEqual(draining["type"], "draining")
                self.assertGreaterEqual(draining["data"]["reconnect_in_ms"], 0)
                with self.assertRaises(ConnectionClosed) as closed:
                    ws.recv(DEADLINE_S)
                self.assertEqual(closed.exception.rcvd.code, 1001)
        finally:
            self.assertEqual(server.stop() if server.process.poll() is None else server.process.returncode, 0)
            server.process.stdout.close()


class Plain(unittest.TestCase):
    """No library at all: what the protocol is, in fifty lines."""

    def setUp(self):
        self.server = Server()
        self.socket = socket.create_connection((self.server.host, self.server.port), DEADLINE_S)
        self.buffer = b""

    def tearDown(self):
        self.socket.close()
        self.assertEqual(self.server.stop(), 0)

    def read(self, count):
        while len(self.buffer) < count:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive(self):
        first, length = self.read(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
        return first & 15, self.read(length)

    def send(self, opcode, payload):
        mask = os.urandom(4)
        length = bytes([128 | len(payload)]) if len(payload) < 126 else struct.pack("!BH", 128 | 126, len(payload))
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        self.socket.sendall(bytes([128 | opcode]) + length + mask + masked)

    def say(self, value):
        self.send(1, json.dumps(value).encode())

    def hear(self):
        opcode, payload = self.receive()
        self.assertEqual(opcode, 1)
        return json.loads(payload)

    def test_flow(self):
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((
            "GET /ws HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % (self.server.host, self.server.port, key)
        ).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "), head)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        self.assertIn(b": " + accept + b"\r\n", head)
        self.assertEqual(self.hear()["type"], "system")
        self.say({"type": "auth", "data": {"token": token("plain", "Plain")}})
        self.assertEqual(self.hear()["data"]["user"], {"id": "plain", "username": "Plain"})
        self.say({"type": "message", "data": {"text": "hi"}})
        self.assertEqual(self.hear()["data"]["text"], "hi")
        self.send(9, b"ping")
        self.assertEqual(self.receive(), (10, b"ping"))
        self.send(8, struct.pack("!H", 1000))
        self.assertEqual(self.receive(), (8, struct.pack("!H", 1000)))
        with self.assertRaises(EOFError):
            self.receive()


if __name__ == "__main__":
    unittest.main()
