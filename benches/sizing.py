#!/usr/bin/env python3
"""The measured figures of docs/sizing.md, as rows of its table.

    cargo build --release --workspace && benches/sizing.py [FOLDER]      (FOLDER: of the binaries, target/release)

One shard on CPU 0, the load generator on CPU 1, loopback. Takes about a minute and wants the machine for itself.
Needs Linux's /proc/slabinfo for the kernel's memory, which only root may read; without it those rows say so. The row
on TLS alone: benches/sizing.py FOLDER tls [CONNECTIONS]; it needs the openssl command for a certificate.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "target/release"
SECRET = "0123456789abcdef0123456789abcdef"
TICKS = os.sysconf("SC_CLK_TCK")
ROWS = []
# What the server's end of a connection is in the kernel's slab: one of each.
SOCKET = ["TCP", "sock_inode_cache", "filp", "dentry", "lsm_file_cache", "lsm_inode_cache", "io_kiocb"]


def row(what, value):
    ROWS.append(f"| {what} | {value} |")
    print(ROWS[-1], flush=True)


def numbers(path, wanted):
    """The numbers of a file whose lines are NAME: VALUE …, by name."""
    with open(path) as lines:
        pairs = (line.split() for line in lines)
        return {words[0].rstrip(":"): int(words[1]) for words in pairs if words and words[0].rstrip(":") in wanted}


def slabs():
    """Bytes of the kernel's objects in use, by cache; empty if they can't be read."""
    try:
        with open("/proc/slabinfo") as lines:
            rows = [line.split() for line in lines][2:]
    except OSError:
        return {}
    return {words[0]: (int(words[1]), int(words[3])) for words in rows}


def slab_bytes():
    return numbers("/proc/meminfo", {"Slab"})["Slab"] * 1024


def data_segments():
    """Segments with data that were sent on this machine, without repeats (TCPOrigDataSent)."""
    with open("/proc/net/netstat") as lines:
        names, values = [line.split() for line in lines if line.startswith("TcpExt:")]
    return int(dict(zip(names, values))["TCPOrigDataSent"])


def tcp(what):
    """`inuse`, sockets of this machine, or `mem`, pages of all TCP buffers."""
    with open("/proc/net/sockstat") as lines:
        words = next(line.split() for line in lines if line.startswith("TCP:"))
    return int(words[words.index(what) + 1])


class Server:
    """The server with one shard; `settings` are keys of its configuration."""

    def __init__(self, **settings):
        env = {key: value for key, value in os.environ.items() if not key.startswith("URINGCAST_")}
        env |= {"URINGCAST_AUTH__HS256_SECRET": SECRET, "URINGCAST_AUTH__DUPLICATE_LOGIN": "allow"}
        env |= {"URINGCAST_LOG__LEVEL": "warn"}
        env |= {f"URINGCAST_{key.upper()}": str(value) for key, value in settings.items()}
        command = ["taskset", "-c", "0", f"{FOLDER}/uringcast", "serve", "--listen", "127.0.0.1:0", "--shards", "1", "--echo"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        words = self.process.stdout.readline().split()
        self.url = next(word for word in words if word.startswith("ws://"))
        self.secure = next((word for word in words if word.startswith("wss://")), None)
        self.base = self.url.rsplit("/", 1)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def load(self, *words, **options):
        """Starts the load generator; `finish` has its report."""
        self.report = tempfile.NamedTemporaryFile(suffix=".json")
        command = ["taskset", "-c", "1", f"{FOLDER}/loadgen", *words, "--secret", SECRET, "--pid", str(self.process.pid)]
        if words[0] == "echo":
            del command[-4:-2]
        command += ["--url", f"{self.base}/echo" if words[0] == "echo" else self.url, "--json", self.report.name]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def finish(self, load):
        text = load.communicate()[0]
        if load.returncode != 0:
            sys.exit(f"the load generator failed:\n{text}")
        return json.load(open(self.report.name))

    def run(self, *words):
        return self.finish(self.load(*words))

    def cpu_s(self):
        words = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def until_connected(self, load, count):
        # Not by /proc/PID/fd: to look there makes an inode for each.
        deadline = time.monotonic() + 60
        while tcp("inuse") < 2 * count:
            if load.poll() is not None or time.monotonic() > deadline:
                sys.exit("the connections did not come:\n" + load.communicate()[0])
            time.sleep(0.05)


def idle(count):
    """Memory and CPU of connections that do nothing, signed in as one user each."""
    with Server(lobby__presence="off", liveness__ping_interval_ms=3_600_000) as server:
        server.run("connect", "-c", "200")  # pools and tables are there
        time.sleep(1.5)
        slab, before = slab_bytes(), slabs()
        load = server.load("connect", "-c", str(count), "--settle", "3", "--hold", "5")
        server.until_connected(load, count)
        time.sleep(2)
        grown, after = slab_bytes() - slab, slabs()
        start, at = server.cpu_s(), time.monotonic()
        time.sleep(4)
        used, seconds = server.cpu_s() - start, time.monotonic() - at
        report = server.finish(load)
    memory = report["memory"]
    row("user memory per connection, signed in, in the lobby", f"{memory['private']:,.0f} B (RSS; {memory['anonymous']:,.0f} of it heap)")
    row("CPU per connection: accept, upgrade, HS256, subscribe", f"{report['connecting']['server_cpu_us']:.0f} µs")
    # The kernel counts in ticks of 10 ms.
    most = (round(used * TICKS) + 1) / TICKS
    row("CPU of idle connections, without pings", f"below {most / seconds * 1e9 / count:.0f} ns per connection and second")
    own = sum(after[name][1] for name in SOCKET if name in after)
    row("kernel memory per socket, idle", f"{own:,} B of objects; {grown / count / 2:,.0f} B is half of all the slab's growth")
    for name in sorted(after):
        objects, size = after[name]
        more = objects - before.get(name, (0, size))[0]
        if more > count // 2:
            print(f"    {name}: {more / count:.2f} objects of {size} B per connection")


def pings(count, interval_ms):
    with Server(lobby__presence="off", liveness__ping_interval_ms=interval_ms) as server:
        load = server.load("connect", "-c", str(count), "--users", "same", "--settle", "2", "--hold", "9")
        server.until_connected(load, count)
        time.sleep(2)
        cpu, segments, at = server.cpu_s(), data_segments(), time.monotonic()
        time.sleep(8)
        cpu, segments, seconds = server.cpu_s() - cpu, data_segments() - segments, time.monotonic() - at
        server.finish(load)
    done = segments / 2  # the ping and the pong
    row("CPU per ping and its pong", f"{cpu / done * 1e6:.1f} µs ({done / seconds:,.0f} a second)")


def fanout(subscribers, window):
    with Server() as server:
        report = server.run("fanout", "-n", str(subscribers), "--users", "same", "--window", str(window), "--seconds", "4")
    traffic = report["traffic"]
    row(
        f"CPU per delivery, {subscribers:,} subscribers, {window} at a time",
        f"{traffic['server_cpu_ns']:,.0f} ns ({traffic['received_per_second']:,.0f} deliveries/s, "
        f"{traffic['server_cpus']:.2f} of the core; {traffic['bytes_per_message']:.0f} B each)",
    )


def echo(pipeline):
    with Server() as server:
        traffic = server.run("echo", "-c", "100", "--pipeline", str(pipeline), "--seconds", "4")["traffic"]
    row(
        f"CPU per message received and sent back, {pipeline} at a time per connection",
        f"{traffic['server_cpu_ns']:,.0f} ns ({traffic['received_per_second']:,.0f}/s)",
    )


def pairs(count):
    """Connected sockets over loopback."""
    with socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(count)]
        return [(client, listener.accept()[0]) for client in clients]


def unread():
    """What the kernel holds for who doesn't read: of one small frame, and at most."""
    connected = pairs(2_000)
    before = tcp("mem")
    for client, _ in connected:
        client.send(b"x" * 250)
    time.sleep(0.5)
    each = (tcp("mem") - before) * resource.getpagesize() / len(connected)
    for pair in connected:
        for end in pair:
            end.close()
    row("kernel memory of one unread frame of 250 B (at the side where it lies)", f"{each:,.0f} B")

    [(client, server)] = pairs(1)
    reading = threading.Event()
    reading.set()

    def read():
        while reading.is_set():
            client.recv(65_536)

    reader = threading.Thread(target=read)
    reader.start()
    # While someone reads, the windows open; then nobody does.
    until = time.monotonic() + 2
    while time.monotonic() < until:
        server.send(bytes(65_536))
    reading.clear()
    server.send(b"the reader's last")
    reader.join()
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while client.recv(1 << 20):
            pass
    server.setblocking(False)
    sent, stalls = 0, 0
    while stalls < 5:
        try:
            sent += server.send(bytes(16_384))
            stalls = 0
        except BlockingIOError:
            stalls += 1
            time.sleep(0.05)
    row("what the kernel takes for a reader that has stopped, before the server notices", f"{sent / 1024:,.0f} KiB at most")
    client.close()
    server.close()


def auth_frame(user):
    """A masked text frame (RFC 6455 §5.2; the mask is 0) that signs `user` in."""
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    claims = {"user_id": user, "username": f"u{user}", "exp": int(time.time()) + 3600}
    signed = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    token = signed + b"." + encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256))
    text = json.dumps({"type": "auth", "data": {"token": token.decode()}}).encode()
    return struct.pack("!BBHI", 0x81, 0xFE, len(text), 0) + text


def idle_memory(server, address, count, context):
    """Bytes of the server's heap per connection that is signed in; over TLS with a `context`."""
    clients = []

    def connect(user):
        client = socket.create_connection(address)
        if context:
            client = context.wrap_socket(client)
        clients.append(client)
        head = f"GET /ws HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        client.sendall(head.encode() + auth_frame(user))
        answer = b""
        while b'"auth_success"' not in answer:
            answer += client.recv(65_536) or sys.exit(f"a connection ended: {answer}")

    def heap():
        time.sleep(1)
        return numbers(f"/proc/{server.process.pid}/status", {"RssAnon"})["RssAnon"] * 1024

    # Pools and tables are there, and stay in use.
    for user in range(1, 201):
        connect(user)
    before = heap()
    for user in range(201, 201 + count):
        connect(user)
    grown = heap() - before
    for client in clients:
        client.close()
    return grown / count


def tls(count):
    """What TLS adds to the memory of an idle connection, median of three."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
        subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
        settings = {"tls__cert_file": certificate, "tls__key_file": key, "tls__listen": "127.0.0.1:0"}
        settings |= {"lobby__presence": "off", "liveness__ping_interval_ms": 3_600_000}
        for name, version in ((None, None), ("1.3", ssl.TLSVersion.TLSv1_3), ("1.2", ssl.TLSVersion.TLSv1_2)):
            context = None
            if version:
                context = ssl.create_default_context(cafile=certificate)
                context.check_hostname = False
                context.minimum_version = context.maximum_version = version
            runs = []
            for _ in range(3):
                with Server(**settings) as server:
                    host, port = (server.secure if context else server.url).split("/")[2].rsplit(":", 1)
                    runs.append(idle_memory(server, (host, int(port)), count, context))
            what = f"over TLS {name}" if name else "plain, beside it"
            each = ", ".join(f"{run:,.0f}" for run in sorted(runs))
            row(f"heap per idle connection of {count:,}, {what}", f"{statistics.median(runs):,.0f} B (of {each})")


def main():
    if sys.argv[2:] == ["unread"]:
        return unread()
    print(f"Linux {os.uname().release}, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}")
    print("| what | measured |\n| --- | --- |")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if sys.argv[2:3] == ["tls"]:
        return tls(int(sys.argv[3]) if len(sys.argv) > 3 else 4_000)
    idle(min(10_000, files - 1_000))
    pings(5_000, 1_000)
    for subscribers, window in ((1_000, 1), (1_000, 64), (8_000, 1), (8_000, 64)):
        fanout(subscribers, window)
    for pipeline in (1, 16):
        echo(pipeline)
    unread()
    tls(4_000)


if __name__ == "__main__":
    main()
