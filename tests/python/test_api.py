"""The HTTP API through clients that this project did not write: Python's http.client, curl, Node's fetch, Go's net/http,
and nginx as a proxy with kept connections. Each of them frames its bodies and reuses its connections in its own way.

A client that is not installed is skipped.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse

BINARY = os.path.abspath(os.environ.get("URINGCAST_BIN", "target/quick/uringcast"))
KEY = "an-api-key-of-the-python-tests"
DEADLINE_S = 60
JSON = {"X-API-Key": KEY, "Content-Type": "application/json"}
LINES = {"X-API-Key": KEY, "Content-Type": "application/x-ndjson"}

NODE = """
const [api, key] = process.argv.slice(1);
const headers = { 'X-API-Key': key, 'Content-Type': 'application/json' };
const offsets = [];
for (let n = 0; n < 20; n += 1) {
    const answer = await fetch(`${api}/api/publish`, { method: 'POST', headers, body: JSON.stringify({ channel: 'node', data: n }) });
    offsets.push((await answer.json()).offset);
}
// A stream has no length, so it is sent in chunks.
const stream = new ReadableStream({
    start(controller) {
        for (let n = 0; n < 1000; n += 1) controller.enqueue(new TextEncoder().encode(`{"channel":"node","data":${n}}\\n`));
        controller.close();
    },
});
const answer = await fetch(`${api}/api/publish`, {
    method: 'POST', headers: { ...headers, 'Content-Type': 'application/x-ndjson' }, body: stream, duplex: 'half',
});
for (const line of (await answer.text()).trim().split('\\n')) offsets.push(JSON.parse(line).offset);
console.log(JSON.stringify(offsets));
"""

GO = """
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"time"
)

func main() {
	reused := 0
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.Reused {
			reused++
		}
	}}
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	for n := 0; n < 20; n++ {
		body := fmt.Sprintf(`{"channel":"go","data":%d}`, n)
		var reader io.Reader = strings.NewReader(body)
		if n%2 == 1 {
			// A reader of unknown length: sent in chunks.
			reader = io.MultiReader(reader)
		}
		request, err := http.NewRequest("POST", os.Args[1]+"/api/publish", reader)
		if err != nil {
			panic(err)
		}
		request = request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
		request.Header.Set("Authorization", "Bearer "+os.Args[2])
		if n%3 == 0 {
			request.Header.Set("Expect", "100-continue")
		}
		answer, err := client.Do(request)
		if err != nil {
			panic(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != 200 || !strings.Contains(string(text), fmt.Sprintf(`"offset":%d}`, n+1)) {
			panic(fmt.Sprint(answer.StatusCode, string(text)))
		}
	}
	fmt.Print(reused)
}
"""

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream push {{ server {api}; keepalive 4; }}
    server {{
        listen unix:{folder}/nginx.sock;
        location / {{
            proxy_pass http://push;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_request_buffering off;
        }}
    }}
}}
"""


class UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self.path)


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("URINGCAST_")}
        environment |= {
            "URINGCAST_LISTEN": "127.0.0.1:0", "URINGCAST_HTTP__LISTEN": "127.0.0.1:0", "URINGCAST_HTTP__KEYS": KEY,
            "URINGCAST_AUTH__HS256_SECRET": "c2VjcmV0" * 6, "URINGCAST_SHARDS": "2",
        }
        cls.server = subprocess.Popen([BINARY, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.stop)
        for line in cls.server.stderr:
            if found := re.search(r"HTTP API on http://(\S+)", line):
                cls.address = found[1]
                break
        threading.Thread(target=cls.server.stderr.read, daemon=True).start()

    @classmethod
    def stop(cls):
        cls.server.terminate()
        assert cls.server.wait(DEADLINE_S) == 0

    def connect(self):
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)
        self.addCleanup(connection.close)
        return connection

    def ask(self, connection, method, path, body=None, headers=JSON, **more):
        connection.request(method, path, body, headers, **more)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def run_it(self, command, **more):
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, **more)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_one_connection_serves_many_requests(self):
        connection = self.connect()
        connection.connect()
        socket_of_it = connection.sock
        for number in range(1, 200):
            status, text = self.ask(connection, "POST", "/api/publish", json.dumps({"channel": "kept", "data": number}))
            self.assertEqual((status, json.loads(text)["offset"]), (200, number))
            self.assertEqual(self.ask(connection, "GET", "/health", headers={})[0], 200)
            self.assertEqual(self.ask(connection, "HEAD", "/health", headers={}), (200, ""))
            self.assertEqual(self.ask(connection, "GET", "/nope")[0], 404)
            self.assertEqual(self.ask(connection, "POST", "/api/publish", "{}", headers={})[0], 401)
        self.assertIs(connection.sock, socket_of_it, "the connection was kept")

    def test_chunks_of_any_size_are_one_body(self):
        connection = self.connect()
        text = json.dumps({"channel": "chunks", "data": "x" * 5000}).encode()
        for number, size in enumerate([1, 7, 1000, 100_000], 1):
            pieces = (text[at:at + size] for at in range(0, len(text), size))
            status, answer = self.ask(connection, "POST", "/api/publish", pieces, encode_chunked=True, headers=JSON | {"Transfer-Encoding": "chunked"})
            self.assertEqual((status, json.loads(answer)["offset"]), (200, number))

    def test_ten_thousand_lines(self):
        connection = self.connect()
        lines = [json.dumps({"channel": f"lines-{n % 7}", "data": n, "idempotency_key": f"k{n}"}) for n in range(10_000)]
        for is_duplicate in (False, True):
            status, text = self.ask(connection, "POST", "/api/publish", "\n".join(lines), headers=LINES)
            self.assertEqual(status, 200)
            results = [json.loads(line) for line in text.splitlines()]
            self.assertEqual([result["channel"] for result in results], [f"lines-{n % 7}" for n in range(10_000)])
            self.assertEqual([result["offset"] for result in results], [n // 7 + 1 for n in range(10_000)])
            self.assertEqual({result.get("duplicate", False) for result in results}, {is_duplicate})
        status, text = self.ask(connection, "POST", "/api/publish", "\n".join([*lines, lines[0]]), headers=LINES)
        self.assertEqual((status, json.loads(text)["error"]["code"]), (413, 413))

    def test_lines_are_answered_by_themselves(self):
        connection = self.connect()
        lines = ['{"channel":"mixed","data":1}', "", "nonsense", '{"channel":"no:such","data":1}', '{"channel":"mixed","text":"hi"}']
        status, text = self.ask(connection, "POST", "/api/publish", "\r\n".join(lines), headers=LINES)
        results = [json.loads(line) for line in text.splitlines()]
        self.assertEqual((status, [result.get("line") for result in results]), (200, [None, 3, 4, None]))
        self.assertEqual([result.get("offset") for result in results], [1, None, None, 2])
        self.assertEqual([result.get("error", {}).get("code") for result in results], [None, 400, 404, None])

    @unittest.skipUnless(shutil.which("curl"), "there is no curl")
    def test_curl_sends_a_pipe_in_chunks(self):
        lines = "".join(f'{{"channel":"curl","data":{n}}}\n' for n in range(5000))
        headers = LINES | {"Transfer-Encoding": "chunked", "Expect": "100-continue"}
        headers = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
        out = self.run_it(["curl", "--silent", "--show-error", "--fail", *headers, "--data-binary", "@-", f"http://{self.address}/api/publish"], input=lines)
        self.assertEqual([json.loads(line)["offset"] for line in out.splitlines()], list(range(1, 5001)))

    @unittest.skipUnless(shutil.which("node"), "there is no node")
    def test_node_streams_a_body(self):
        out = self.run_it(["node", "--no-warnings", "--input-type=module", "--eval", NODE, f"http://{self.address}", KEY])
        self.assertEqual(json.loads(out), list(range(1, 1021)))

    @unittest.skipUnless(shutil.which("go"), "there is no go")
    def test_go_waits_to_be_told_to_go_on(self):
        program = os.path.join(self.folder, "main.go")
        with open(program, "w", encoding="utf-8") as file:
            file.write(GO)
        cache = {"GOCACHE": os.path.join(self.folder, "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
        built = os.path.join(self.folder, "client")
        subprocess.run(["go", "build", "-o", built, program], env=os.environ | cache, check=True, timeout=5 * DEADLINE_S)
        self.assertEqual(self.run_it([built, f"http://{self.address}", KEY]), "19", "one connection served all of it")

    @unittest.skipUnless(shutil.which("nginx"), "there is no nginx")
    def test_nginx_keeps_its_connections(self):
        config = os.path.join(self.folder, "nginx.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(NGINX.format(folder=self.folder, api=self.address))
        nginx = subprocess.Popen(["nginx", "-c", config, "-p", self.folder], stderr=subprocess.DEVNULL)
        self.addCleanup(nginx.wait, DEADLINE_S)
        self.addCleanup(nginx.terminate)
        path = os.path.join(self.folder, "nginx.sock")
        end = time.monotonic() + DEADLINE_S
        while not os.path.exists(path):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        connection = UnixConnection(path)
        self.addCleanup(connection.close)
        for number in range(1, 100):
            body = json.dumps({"channel": "nginx", "data": number}).encode()
            more = {"encode_chunked": True} if number % 2 else {}
            headers = JSON | {"Transfer-Encoding": "chunked"} if more else JSON
            status, text = self.ask(connection, "POST", "/api/publish", iter([body]) if more else body, headers=headers, **more)
            self.assertEqual((status, json.loads(text)["offset"]), (200, number))
        query = urllib.parse.urlencode({"channel": "lobby"})
        self.assertEqual(self.ask(connection, "GET", f"/api/presence?{query}")[0], 200)

    def test_a_slow_client_holds_up_nobody(self):
        slow = []
        for part in (b"", b"POST /api/publish HTTP/1.1\r\nHo", f"POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 99\r\n\r\n{{".encode()):
            for _ in range(100):
                connection = self.connect()
                connection.connect()
                connection.sock.sendall(part)
                slow.append(connection)
        for connection in (self.connect(), self.connect()):
            self.assertEqual(self.ask(connection, "GET", "/health", headers={})[0], 200)
            self.assertEqual(self.ask(connection, "POST", "/api/publish", '{"channel":"quick","data":1}')[0], 200)


if __name__ == "__main__":
    unittest.main()
