#!/usr/bin/env python3
"""A mixed load for a given time against the real server, and what it leaves behind.

    run.py --server BINARY --loadgen BINARY [--minutes 10] [--p99-ms 500] [--csv FILE]

A round is `loadgen abuse` (innocent clients under a steady broadcast beside one abuse after the other), then
`loadgen storm` (all connections dropped, all back with recovery, at once and spread), then `loadgen chat`
(users who come, go and publish, with presence). Every second the server's memory, descriptors, threads and gauges are
sampled; between rounds it is idle, and what it then holds must not grow. It fails on
- a message lost, doubled, changed or out of order, or an innocent client cut (loadgen's own verdict);
- a p99 of the innocent above --p99-ms, before, during or after any abuse;
- idle memory whose least-squares line rises by more than a tenth and 4 MiB from the first round to the last, or a median
  of the last quarter of all samples that is more than a fifth and 8 MiB above that of the first;
- descriptors, threads, connections, users or subscriptions left when idle; a panic; an end by SIGTERM that isn't clean.
Standard library only.
"""

import argparse
import csv
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

MIB = 1 << 20
GAUGES = ["connections", "users", "subscriptions", "channels", "history_bytes", "connections_blocked"]
COUNTERS = ["lane_full_turns_total", "lane_parcels_total", "deliveries_total", "upgrades_total", "panics_total"]
FIELDS = ["seconds", "rss_bytes", "files", "threads", *GAUGES, *COUNTERS]


class Server:
    def __init__(self, binary, folder):
        self.secret, self.folder = secrets.token_hex(32), folder
        env = {name: value for name, value in os.environ.items() if not name.startswith("URINGCAST_")}
        env |= {
            "URINGCAST_AUTH__HS256_SECRET": self.secret,
            "URINGCAST_AUTH__DUPLICATE_LOGIN": "allow",
            "URINGCAST_HTTP__KEYS": secrets.token_hex(32),
            "URINGCAST_HTTP__LISTEN": "127.0.0.1:0",
            # The innocent are at 127.0.0.1; abusers come from another address and have every limit.
            "URINGCAST_LIMITS__EXEMPT": "127.0.0.1/32",
            "URINGCAST_LIVENESS__PING_INTERVAL_MS": "5000",
            # Reached in the first round: deserted channels are kept for five minutes, which would look like growth.
            "URINGCAST_LIMITS__CHANNELS": "5000",
            "URINGCAST_LIMITS__HANDSHAKE_MS": "3000",
            "URINGCAST_AUTH__DEADLINE_MS": "3000",
        }
        self.log = open(os.path.join(folder, "server.log"), "w+")
        command = [binary, "--listen", "127.0.0.1:0", "--shards", "2"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        ready = self.process.stdout.readline()
        found = re.match(r"listening on (ws://[^/]+/ws)", ready)
        if not found:
            sys.exit(f"the server did not start: {ready!r}\n{self.read_log()}")
        self.url = found[1]
        deadline = time.monotonic() + 10
        while not (found := re.search(r"HTTP API on (http://\S+)", self.read_log())):
            if time.monotonic() > deadline:
                sys.exit("where the API listens is not in the log")
            time.sleep(0.01)
        self.metrics_url = found[1] + "/metrics"

    def read_log(self):
        with open(self.log.name) as file:
            return file.read()

    def metrics(self):
        with urllib.request.urlopen(self.metrics_url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("uringcast_"): float(value) for name, value in pairs}

    def sample(self):
        process = f"/proc/{self.process.pid}"
        with open(f"{process}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        metrics = self.metrics()
        return {
            "rss_bytes": int(status["RssAnon"].split()[0]) * 1024,
            "files": len(os.listdir(f"{process}/fd")),
            "threads": int(status["Threads"]),
            **{name: int(metrics[name]) for name in GAUGES + COUNTERS},
        }

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Soak:
    def __init__(self, args, server):
        self.args, self.server = args, server
        self.start = time.monotonic()
        self.samples, self.idle, self.faults, self.p99 = [], [], [], []
        self.enough = threading.Event()

    def sampling(self):
        while not self.enough.wait(1):
            sample = self.server.sample()
            self.samples.append({"seconds": round(time.monotonic() - self.start, 1), **sample})

    def loadgen(self, name, *more):
        report = os.path.join(self.server.folder, f"{name}.json")
        command = [self.args.loadgen, name, "--url", self.server.url, "--secret", self.server.secret, "--json", report]
        command += [*more, "--timeout", "30"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            self.faults.append(f"loadgen {name} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
            return None
        with open(report) as file:
            return json.load(file)

    def abuse(self):
        pid = str(self.server.process.pid)
        report = self.loadgen("abuse", "--connections", "200", "--abusers", "100", "--seconds", "1.5", "--pid", pid)
        for row in report["abuses"] if report else []:
            for phase, innocent in zip(("before", "during", "after"), row["innocent"]):
                if not innocent["latency"]:
                    self.faults.append(f"nothing was delivered {phase} {row['abuse']}")
                    continue
                p99 = innocent["latency"]["p99_us"] / 1000
                self.p99.append(p99)
                if p99 > self.args.p99_ms:
                    self.faults.append(f"p99 of {p99:.1f} ms {phase} {row['abuse']}")

    def round(self):
        self.abuse()
        self.rest()
        # Alone on the lobby: what others publish there would count as breaks in what it is sent after.
        for jitter in ("0", "500"):
            self.loadgen("storm", "--connections", "300", "--before", "0.5", "--jitter-ms", jitter, "--rate", "20")
        self.rest()
        self.loadgen("chat", "--connections", "200", "--churn", "40", "--away-ms", "200", "--rate", "100", "--seconds", "15")
        self.rest()
        self.idle.append(self.server.sample())
        idle = self.idle[-1]
        worst = max(self.p99, default=0)
        print(
            f"{time.monotonic() - self.start:6.0f} s  round {len(self.idle)}: idle {idle['rss_bytes'] / MIB:.1f} MiB, "
            f"{idle['files']} files, {idle['threads']} threads, {idle['channels']} channels; "
            f"worst p99 so far {worst:.1f} ms, {idle['deliveries_total']:,} deliveries",
            flush=True,
        )

    def rest(self):
        """Until nobody is connected."""
        deadline = time.monotonic() + 30
        while self.server.metrics()["connections"] > 0:
            if time.monotonic() > deadline:
                self.faults.append("connections are left 30 s after the last client")
                return
            time.sleep(0.1)
        time.sleep(2)

    def growth(self):
        """What is more at the end than it should be."""
        first, last = self.idle[0], self.idle[-1]
        for name in ("files", "threads"):
            if last[name] > first[name]:
                yield f"{name}: {first[name]} when first idle, {last[name]} at the end"
        for name in ("connections", "users", "subscriptions", "connections_blocked"):
            if last[name]:
                yield f"{last[name]} {name} when idle"
        memory = [sample["rss_bytes"] for sample in self.idle]
        if len(memory) >= 3:
            rise = statistics.linear_regression(range(len(memory)), memory).slope * (len(memory) - 1)
            print(f"idle memory: {memory[0] / MIB:.1f} to {memory[-1] / MIB:.1f} MiB, its line rises by {rise / MIB:.2f}")
            if rise > memory[0] / 10 + 4 * MIB:
                yield f"idle memory rises by {rise / MIB:.1f} MiB over {len(memory)} rounds"
        loaded = [sample["rss_bytes"] for sample in self.samples]
        quarter = len(loaded) // 4
        if quarter >= 60:
            early, late = statistics.median(loaded[:quarter]), statistics.median(loaded[-quarter:])
            print(f"median of the first quarter {early / MIB:.1f} MiB, of the last {late / MIB:.1f}")
            if late > early * 1.2 + 8 * MIB:
                yield f"median memory: {early / MIB:.1f} MiB in the first quarter, {late / MIB:.1f} in the last"
        if last["panics_total"]:
            yield f"{last['panics_total']} panics"

    def run(self):
        sampling = threading.Thread(target=self.sampling)
        sampling.start()
        try:
            while not self.faults and (not self.idle or time.monotonic() - self.start < self.args.minutes * 60):
                self.round()
        finally:
            self.enough.set()
            sampling.join()
        if self.idle:
            self.faults += self.growth()
        if self.args.csv:
            with open(self.args.csv, "w", newline="") as file:
                table = csv.DictWriter(file, FIELDS)
                table.writeheader()
                table.writerows(self.samples)
        peak = max((sample["rss_bytes"] for sample in self.samples), default=0)
        p99 = sorted(self.p99) or [0]
        print(f"peak {peak / MIB:.1f} MiB; p99 of the innocent: median {statistics.median(p99):.1f} ms, worst {p99[-1]:.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--loadgen", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--p99-ms", type=float, default=500)
    parser.add_argument("--csv")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.server, folder)
        try:
            soak = Soak(args, server)
            soak.run()
            if server.stop() != 0:
                soak.faults.append("the server did not end well")
        finally:
            server.process.kill()
            server.process.wait()
        for fault in soak.faults:
            print(f"FAULT {fault}")
        if soak.faults:
            print(server.read_log()[-2000:])
        sys.exit(1 if soak.faults else 0)


if __name__ == "__main__":
    main()
