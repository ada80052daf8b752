"""Runs every program of examples/ against the real server.

Each publisher's publication has to arrive at a subscriber, unchanged and once, also when its first tries fail. Each
subscriber has to print every publication once and in order, over cut connections and a restart of the server.
A program whose runtime is missing is skipped; with CI=true that is a failure.
"""

import http.server
import json
import os
import queue
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
EXAMPLES = os.path.join(ROOT, "examples")
BINARY = os.path.abspath(os.environ.get("URINGCAST_BIN", "target/quick/uringcast"))
DEADLINE_S = 60
SECRET = "a secret of the tests of the examples"
API_KEY = secrets.token_hex(32)
# What the server and the programs inherit: no setting of whoever runs the tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("URINGCAST_", "PUSH_"))}
CONFIG = f"""
listen = "127.0.0.1:0"
shards = 2
[http]
listen = "127.0.0.1:0"
keys = ["{API_KEY}"]
[auth]
hs256_secret = "{SECRET}"
[limits]
history_bytes = 1048576
"""


def has_websocket():
    """The flags with which Node has WebSocket, or None if it has none."""
    for flags in ([], ["--experimental-websocket"]):
        probe = ["node", *flags, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if shutil.which("node") and subprocess.run(probe, capture_output=True, timeout=DEADLINE_S).returncode == 0:
            return flags
    return None


def missing(name, why):
    """Skips a program, or fails where everything has to be there."""
    if os.environ.get("CI") == "true":
        raise AssertionError(f"{name}: {why}")
    raise unittest.SkipTest(f"{name}: {why}")


def free_of_lines(stream, into):
    for line in stream:
        into.put(line.rstrip("\n"))
    into.put(None)
    stream.close()


class Process:
    """A program whose output is read line by line, with a deadline."""

    def __init__(self, command, environment, **more):
        self.child = subprocess.Popen(
            command, env=ENVIRONMENT | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, **more,
        )
        self.lines, self.log = queue.Queue(), queue.Queue()
        self.told = []
        for stream, lines in ((self.child.stdout, self.lines), (self.child.stderr, self.log)):
            threading.Thread(target=free_of_lines, args=(stream, lines), daemon=True).start()

    def line(self):
        """The next line of stdout."""
        return self._next(self.lines)

    def logged(self, pattern):
        """Waits for a line of stderr that matches."""
        while True:
            if found := re.search(pattern, self._next(self.log)):
                return found

    def _next(self, lines):
        try:
            line = lines.get(timeout=DEADLINE_S)
        except queue.Empty:
            raise AssertionError(f"nothing within {DEADLINE_S} s; before: {self.told}") from None
        if line is None:
            rest = [line for line in iter(lambda: self.log.get_nowait() if not self.log.empty() else None, None)]
            raise AssertionError(f"{self.child.args} ended with {self.child.wait(DEADLINE_S)}: {self.told} {rest}")
        self.told.append(line)
        return line

    def stop(self, signal=15):
        """Ends the program and what it started."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal)
        return self.child.wait(DEADLINE_S)


class Server:
    def __init__(self):
        self.folder = tempfile.mkdtemp()
        config = os.path.join(self.folder, "uringcast.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG)
        self.process = Process([BINARY, "serve", "--config", config], {})
        self.port = int(re.search(r"listening on ws://127\.0\.0\.1:(\d+)/ws", self.process.line())[1])
        self.api = self.process.logged(r"HTTP API on (http://\S+)")[1]

    def stop(self):
        code = self.process.stop()
        shutil.rmtree(self.folder)
        return code

    def publish(self, channel, data):
        request = urllib.request.Request(
            f"{self.api}/api/publish", json.dumps({"channel": channel, "data": data}).encode(),
            {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return json.load(answer)["offset"]


def token(user):
    made = subprocess.run(
        [BINARY, "token", "--user", str(user), "--name", f"User {user}"], env=ENVIRONMENT | {"URINGCAST_AUTH__HS256_SECRET": SECRET},
        capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )
    return made.stdout.strip()


class Proxy:
    """One address for clients, whatever port the server has at the moment; cuts connections on demand."""

    def __init__(self, port):
        self.port_behind = port
        self.pairs = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port_behind))
            except OSError:
                client.close()
                continue
            with self.lock:
                self.pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    def copy(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        """Ends every connection in the middle."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()
        return len(pairs)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


# What is published: signs that careless quoting would change, in a value whose numbers and order matter.
TRICKY = {"headline": "It's \"5 < 6\" & Ünïcode 🦀 \\ $HOME", "price": 1.5, "big": 9007199254740991, "none": None, "empty": {}, "list": [1, "2"]}


@unittest.skipUnless(shutil.which("curl"), "there is no curl")
class PublishLines(unittest.TestCase):
    """The program that publishes a value in each line of its input."""

    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.stop)

    def run_it(self, text):
        return subprocess.run(
            [os.path.join(EXAMPLES, "publish_lines.sh")], env=ENVIRONMENT | {"PUSH_API_URL": self.server.api, "PUSH_API_KEY": API_KEY},
            input=text, capture_output=True, text=True, timeout=DEADLINE_S,
        )

    def test_each_line_is_published(self):
        lines = [json.dumps({"channel": "news", "data": n, "idempotency_key": f"k{n}"}) for n in range(1000)]
        for is_duplicate in (False, True):
            done = self.run_it("\n".join(lines))
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            results = [json.loads(line) for line in done.stdout.splitlines()]
            self.assertEqual([result["offset"] for result in results], list(range(1, 1001)))
            self.assertEqual({result.get("duplicate", False) for result in results}, {is_duplicate})

    def test_a_line_that_is_refused_is_told(self):
        done = self.run_it('{"channel":"news","data":1}\n{"channel":"no:such","data":1}\n')
        self.assertEqual(done.returncode, 1)
        self.assertIn("not all lines", done.stderr)
        first, second = map(json.loads, done.stdout.splitlines())
        self.assertEqual((first["offset"], second["line"], second["error"]["code"]), (1, 2, 404))
        self.assertEqual(self.run_it("").returncode, 1)


class Publisher:
    """Tests of one program that publishes. The subclasses say which."""

    @classmethod
    def setUpClass(cls):
        cls.command = cls.program()
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def run_it(self, *args, api=None, key=API_KEY):
        return subprocess.run(
            [*self.command, *args], env=ENVIRONMENT | {"PUSH_API_URL": api or self.server.api, "PUSH_API_KEY": key}, cwd=EXAMPLES,
            capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
        )

    def test_what_it_publishes_arrives_once(self):
        import websockets.sync.client

        with websockets.sync.client.connect(f"ws://127.0.0.1:{self.server.port}/ws") as client:
            client.send(json.dumps({"type": "auth", "data": {"token": token(1), "channels": [{"channel": "news"}]}}))
            while (answer := json.loads(client.recv(timeout=DEADLINE_S)))["type"] != "subscribed":
                self.assertIn(answer["type"], ("system", "auth_success"))
            before = answer["data"]["offset"]
            said = [self.run_it("news", json.dumps(TRICKY), f"{type(self).__name__}-17") for _ in range(2)]
            said.append(self.run_it("news", '"the next"'))
            for done in said:
                self.assertEqual((done.returncode, done.stderr), (0, ""))
            answers = [json.loads(done.stdout) for done in said]
            self.assertEqual([answer["offset"] - before for answer in answers], [1, 1, 2])
            self.assertEqual([answer.get("duplicate", False) for answer in answers], [False, True, False])
            pushes = [json.loads(client.recv(timeout=DEADLINE_S)) for _ in range(2)]
        self.assertEqual([push["data"]["data"] for push in pushes], [TRICKY, "the next"])
        self.assertEqual([push["data"]["offset"] - before for push in pushes], [1, 2])

    def test_a_refusal_is_told_and_not_repeated(self):
        for args, more, told in (
            (("news", "1"), {"key": "another key"}, "401"),
            (("no-such-namespace:1", "1"), {}, "404.*unknown namespace"),
        ):
            done = self.run_it(*args, **more)
            self.assertEqual((done.returncode, done.stdout), (1, ""), done)
            self.assertRegex(done.stderr, told)

    def test_a_failed_try_is_repeated_under_the_same_key(self):
        requests = []

        class Failing(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append((self.headers["Authorization"], body.get("idempotency_key") or self.headers["Idempotency-Key"], body["data"]))
                # Not published; unknown; the connection breaks; accepted.
                status = {1: 503, 2: 504, 3: None}.get(len(requests), 200)
                if status is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                content = json.dumps({"channel": body["channel"], "epoch": "e", "offset": 1} if status == 200 else {"error": {"code": status, "message": "try again"}}).encode()
                self.send_response(status)
                if status == 503:
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing) as failing:
            threading.Thread(target=failing.serve_forever, daemon=True).start()
            done = self.run_it("news", '{"price":1.5}', api=f"http://127.0.0.1:{failing.server_port}")
            failing.shutdown()
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(json.loads(done.stdout), {"channel": "news", "epoch": "e", "offset": 1})
        self.assertEqual(len(requests), 4)
        self.assertEqual(len({request[1] for request in requests}), 1, requests)
        self.assertRegex(requests[0][1], r"^[0-9a-f-]{32,36}$")
        self.assertEqual({request[0] for request in requests}, {f"Bearer {API_KEY}"})
        self.assertEqual([request[2] for request in requests], [{"price": 1.5}] * 4)

    def test_no_answer_at_all_is_told(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        done = self.run_it("news", "1", "a-key", api=f"http://127.0.0.1:{port}")
        self.assertEqual((done.returncode, done.stdout), (1, ""), done)
        self.assertIn("a-key", done.stderr)


class Curl(Publisher, unittest.TestCase):
    @staticmethod
    def program():
        return [os.path.join(EXAMPLES, "publish.sh")] if shutil.which("curl") else missing("publish.sh", "there is no curl")


class Python(Publisher, unittest.TestCase):
    @staticmethod
    def program():
        return [sys.executable, os.path.join(EXAMPLES, "publish.py")]


class Php(Publisher, unittest.TestCase):
    @staticmethod
    def program():
        return ["php", os.path.join(EXAMPLES, "publish.php")] if shutil.which("php") else missing("publish.php", "there is no php")


class Node(Publisher, unittest.TestCase):
    @staticmethod
    def program():
        return ["node", os.path.join(EXAMPLES, "publish.mjs")] if shutil.which("node") else missing("publish.mjs", "there is no node")


class Go(Publisher, unittest.TestCase):
    @classmethod
    def program(cls):
        if not shutil.which("go"):
            missing("publish.go", "there is no go")
        folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, folder)
        program = os.path.join(folder, "publish")
        # Go keeps what it compiled of its library below the target folder, and asks nobody for modules.
        cache = {"GOCACHE": os.path.join(os.path.dirname(os.path.dirname(BINARY)), "go-cache"), "GOPROXY": "off"}
        subprocess.run(
            ["go", "build", "-o", program, "publish.go"], cwd=EXAMPLES, env=ENVIRONMENT | cache, check=True, timeout=5 * DEADLINE_S,
        )
        return [program]


class Subscriber:
    """Tests of one program that subscribes. The subclasses say which."""

    url = "ws://127.0.0.1:{}/ws"
    # What the program has at the server when it is subscribed: the channel, and the lobby.
    subscriptions = 2

    @classmethod
    def setUpClass(cls):
        cls.command = cls.program()
        cls.token = token(7)

    def setUp(self):
        self.server = Server()
        self.addCleanup(lambda: self.server.stop())
        self.proxy = Proxy(self.server.port)
        self.addCleanup(self.proxy.close)

    def start(self, channel="news", shown=None):
        """Starts the program, and waits until it is subscribed."""
        environment = {"PUSH_URL": self.url.format(self.proxy.port), "PUSH_TOKEN": shown or self.token}
        process = Process([*self.command, channel], environment, cwd=EXAMPLES)
        self.addCleanup(process.stop)
        return process

    def subscribed(self, count):
        """Waits until the server counts so many subscriptions of others than the lobby."""
        request = urllib.request.Request(f"{self.server.api}/metrics", headers={"Authorization": f"Bearer {API_KEY}"})
        for _ in range(20 * DEADLINE_S):
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                if f"\nuringcast_subscriptions {count}\n" in answer.read().decode():
                    return
            threading.Event().wait(0.05)
        self.fail(f"no {count} subscriptions within {DEADLINE_S} s")

    def heard(self, process, count):
        """The next publications that the program prints, as (offset, data)."""
        lines = [process.line() for _ in range(count)]
        return [(int(offset), json.loads(data)) for offset, data in (line.split(" ", 1) for line in lines)]

    def lost(self, process):
        """The gap that the program prints next, as (from, to, reason)."""
        found = re.fullmatch(r"lost (\d+) to (\d+): (\w+)", process.line())
        self.assertTrue(found, process.told)
        return int(found[1]), int(found[2]), found[3]

    def test_every_publication_once_over_cut_connections(self):
        process = self.start()
        self.subscribed(self.subscriptions)
        expected = []
        for round in range(3):
            for number in range(5):
                data = {"round": round, "number": number, "text": "<Ü>"}
                expected.append((self.server.publish("news", data), data))
            self.assertEqual(self.heard(process, 5), expected[-5:])
            self.assertGreaterEqual(self.proxy.cut(), 1)
            # Published while the client is away, most of the time.
            expected.append((self.server.publish("news", round), round))
            self.assertEqual(self.heard(process, 1), expected[-1:])
        self.assertEqual([offset for offset, _ in expected], list(range(1, 19)))

    def test_a_restart_of_the_server(self):
        process = self.start()
        self.subscribed(self.subscriptions)
        self.server.publish("news", "before")
        self.assertEqual(self.heard(process, 1), [(1, "before")])
        self.assertEqual(self.server.stop(), 0)
        # The new server has none of the channel's history: what it published meanwhile is named by a gap.
        self.server = Server()
        for number in range(3):
            self.server.publish("news", number)
        self.proxy.port_behind = self.server.port
        self.assertEqual(self.lost(process), (1, 3, "history_lost"))
        self.server.publish("news", "after")
        self.assertEqual(self.heard(process, 1), [(4, "after")])

    def test_a_final_refusal_ends_it(self):
        process = self.start(shown="no token")
        self.assertEqual(process.child.wait(DEADLINE_S), 1)
        self.assertRegex(process.logged(r"(?i)token|401")[0], ".")
        process = self.start(channel="no-such-namespace:1")
        self.assertEqual(process.child.wait(DEADLINE_S), 1)
        process.logged("404|namespace")


class SubscribePython(Subscriber, unittest.TestCase):
    @staticmethod
    def program():
        return [sys.executable, os.path.join(EXAMPLES, "subscribe.py")]


class SubscribeNode(Subscriber, unittest.TestCase):
    @staticmethod
    def program():
        flags = has_websocket()
        if flags is None:
            missing("subscribe.mjs", "there is no node with WebSocket (20.10 or later)")
        return ["node", "--no-warnings", *flags, os.path.join(EXAMPLES, "subscribe.mjs")]


class SubscribeCurl(Subscriber, unittest.TestCase):
    url = "http://127.0.0.1:{}"
    subscriptions = 1

    @staticmethod
    def program():
        return [os.path.join(EXAMPLES, "subscribe.sh")] if shutil.which("curl") else missing("subscribe.sh", "there is no curl")

    def setUp(self):
        super().setUp()
        self.pending = []

    def next(self, process):
        """The next publication or gap that the program prints. Recovered publications are in `subscribed`."""
        while not self.pending:
            message = json.loads(process.line())
            if message.get("type") == "subscribed":
                self.pending += message["data"].get("publications", [])
            elif message.get("type") in ("publication", "gap"):
                self.pending.append(message["data"])
        return self.pending.pop(0)

    def heard(self, process, count):
        events = [self.next(process) for _ in range(count)]
        return [(event["offset"], event["data"]) for event in events]

    def lost(self, process):
        gap = self.next(process)
        return gap["from"], gap["to"], gap["reason"]


if __name__ == "__main__":
    unittest.main()
