#!/usr/bin/env python3
"""A mixed load for a given time against the real server, and what it leaves behind.

    run.py --server BINARY --loadgen BINARY [--minutes 10] [--p99-ms 250] [--csv FILE]

A round is `loadgen abuse` (innocent clients under a steady broadcast beside one abuse after the other), `loadgen storm`
(all connections dropped, all back with recovery) beside more abuse and others' publications, some thousand connections
that come and go, then `loadgen chat` (users who come, go and publish, with presence). Every second the server's memory,
descriptors, threads and gauges are sampled; between rounds it is idle, and what it then holds must not grow.

The server has half of the CPUs, the generator the other half: else the generator's own waiting for a CPU would be counted
as the server's. It fails on
- a message lost, doubled, changed or out of order, or an innocent client cut (loadgen's own verdict);
- a p99 of the innocent above --p99-ms, in the median over all rounds, before, during or after any abuse. The load of the
  innocent is 200 connections and 50 publications a second, so 10,000 deliveries a second: a twentieth of a core. Beside
  them 100 connections send as fast as one core of the generator can, of which a turn takes 64 KiB each: where the abusers
  are signed in and within their rate that is 65,000 messages of 50 bytes on each shard, 20 to 30 ms. A publication waits
  for a turn of its publisher's shard, its channel's owner's and its subscriber's, and on two CPUs both shards share one, so
  it may take 6 of those: 120 to 180 ms, and 250 is the bound. The median over the rounds, since any one stall of the
  machine is in the p99 of 75 publications. Where other programs kept a shard from its CPU for more than a twentieth of
  that time, a p99 that is too high is told, but is no fault of the server's;
- idle memory that grows: see `memory`;
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
# Idle memory may rise by so much from the second round to the last; the allocator alone moved it by 0.4 MiB in 5.
RISE_BYTES = 2 * MIB
# The rounds after the first that it takes to tell a line from a jump.
ROUNDS_MIN = 4
# Opened and closed in each round, beside those of the abuses: some 50,000 together, so that a leak of 16 bytes in each is
# above RISE_BYTES after 3 rounds. (Planted: 64 bytes were found after 5 rounds as 65.6.)
COMERS, COMINGS = 4_000, 4
GAUGES = ["connections", "users", "subscriptions", "channels", "history_bytes", "connections_blocked"]
COUNTERS = [
    "lane_full_turns_total",
    "lane_parcels_total",
    "deliveries_total",
    "connections_accepted_total",
    "upgrades_total",
    "panics_total",
]
FIELDS = ["seconds", "rss_bytes", "files", "threads", "starved_seconds", *GAUGES, *COUNTERS]


class Server:
    def __init__(self, binary, folder, cpus):
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
            # Reached in the first round: deserted channels and old keys are kept for five minutes, which would look
            # like growth.
            "URINGCAST_LIMITS__CHANNELS": "5000",
            "URINGCAST_LIMITS__IDEMPOTENCY_KEYS": "2000",
            "URINGCAST_LIMITS__HANDSHAKE_MS": "3000",
            "URINGCAST_AUTH__DEADLINE_MS": "3000",
        }
        self.log = open(os.path.join(folder, "server.log"), "w+")
        command = [binary, "--listen", "127.0.0.1:0", "--shards", "2"]
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=self.log, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus)
        )
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
            "starved_seconds": self.starved(),
            **{name: int(metrics[name]) for name in GAUGES + COUNTERS},
        }

    def starved(self):
        """How long, so far, a shard was ready to run and neither it nor another thread of the server had the CPU."""
        used, waited = [], []
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/schedstat") as file:
                on_cpu, ready = map(int, file.read().split()[:2])
            used.append(on_cpu)
            waited.append(ready)
        return round(max(0, *(ready - sum(used) + own for ready, own in zip(waited, used))) / 1e9, 2)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Soak:
    def __init__(self, args, server, cpus):
        self.args, self.server, self.cpus = args, server, cpus
        self.start = time.monotonic()
        self.samples, self.idle, self.faults, self.p99 = [], [], [], {}
        self.judged_seconds = self.starved_seconds = 0
        self.enough = threading.Event()
        # Short runs have shorter parts: it takes some rounds to see growth.
        self.part = str(min(1.5, max(0.3, args.minutes / 10)))

    def sampling(self):
        while not self.enough.wait(1):
            sample = self.server.sample()
            self.samples.append({"seconds": round(time.monotonic() - self.start, 1), **sample})

    def loadgen(self, name, *more):
        report = os.path.join(self.server.folder, f"{name}.json")
        command = [self.args.loadgen, name, "--url", self.server.url, "--secret", self.server.secret, "--json", report]
        command += [*more, "--timeout", "30"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cpus),
        )
        if done.returncode != 0:
            self.faults.append(f"loadgen {name} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
            return None
        with open(report) as file:
            return json.load(file)

    def abuse(self, *more):
        report = self.loadgen("abuse", "--connections", "200", "--abusers", "100", "--seconds", self.part, *more)
        rows = report["abuses"] if report else []
        return [
            (f"{phase} {row['abuse']}", innocent["latency"])
            for row in rows
            for phase, innocent in zip(("before", "during", "after"), row["innocent"])
        ]

    def round(self):
        before = (time.monotonic(), self.server.starved())
        for when, latency in self.abuse("--pid", str(self.server.process.pid)):
            if latency:
                self.p99.setdefault(when, []).append(latency["p99_us"] / 1000)
            else:
                self.faults.append(f"nothing was delivered {when}")
        self.judged_seconds += time.monotonic() - before[0]
        self.starved_seconds += self.server.starved() - before[1]
        self.rest()
        # Recovery has to hold while others publish and abuse; what the innocent wait meanwhile is not judged.
        abusing = threading.Thread(target=self.abuse, args=("--only", "reconnects,channels,keys,garbage"))
        abusing.start()
        for jitter in ("0", "500"):
            self.loadgen("storm", "--connections", "300", "--before", "0.5", "--jitter-ms", jitter, "--rate", "20")
        abusing.join()
        self.rest()
        for _ in range(COMINGS):
            self.loadgen("connect", "--connections", str(COMERS), "--settle", "0", "--no-auth")
        self.loadgen("connect", "--connections", str(COMERS // 8), "--settle", "0")
        self.rest()
        seconds = str(10 * float(self.part))
        self.loadgen("chat", "--connections", "200", "--churn", "40", "--away-ms", "200", "--rate", "100", "--seconds", seconds)
        self.rest()
        # The sampling itself has a connection open now and then.
        self.idle.append(min((self.server.sample() for _ in range(3)), key=lambda sample: sample["files"]))
        idle = self.idle[-1]
        worst, when = max(((max(p99), when) for when, p99 in self.p99.items()), default=(0, ""))
        print(
            f"{time.monotonic() - self.start:6.0f} s  round {len(self.idle)}: idle {idle['rss_bytes'] / MIB:.1f} MiB, "
            f"{idle['files']} files, {idle['threads']} threads, {idle['channels']} channels; "
            f"worst p99 so far {worst:.1f} ms ({when}), {idle['connections_accepted_total']:,} connections, "
            f"{idle['deliveries_total']:,} deliveries",
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
        time.sleep(1)

    def growth(self):
        """What is more at the end than it should be."""
        first, last = self.idle[0], self.idle[-1]
        for name in ("files", "threads"):
            if last[name] > first[name]:
                yield f"{name}: {first[name]} when first idle, {last[name]} at the end"
        for name in ("connections", "users", "subscriptions", "connections_blocked"):
            if last[name]:
                yield f"{last[name]} {name} when idle"
        yield from self.memory()
        yield from self.latency()
        if last["panics_total"]:
            yield f"{last['panics_total']} panics"

    def memory(self):
        """Whether idle memory grows with what was done.

        The first round doesn't count: it fills what is bounded (channels, keys, history, pools). Of the others the
        slope over the connections made is taken as the median of the slopes between any two rounds (Theil and Sen),
        which a single jump of the allocator doesn't move but a leak does."""
        points = [(sample["connections_accepted_total"], sample["rss_bytes"]) for sample in self.idle[1:]]
        if len(points) < ROUNDS_MIN:
            yield f"{len(points)} rounds after the first are too few to judge memory: it takes {ROUNDS_MIN}"
            return
        slopes = [(y - b) / (x - a) for at, (a, b) in enumerate(points) for x, y in points[at + 1 :]]
        slope = statistics.median(slopes)
        rise = slope * (points[-1][0] - points[0][0])
        print(
            f"idle memory: {points[0][1] / MIB:.1f} to {points[-1][1] / MIB:.1f} MiB; its line rises by {rise / MIB:.2f} MiB, "
            f"{slope:.1f} bytes for each of {points[-1][0] - points[0][0]:,} connections"
        )
        if rise > RISE_BYTES:
            yield f"idle memory rises by {rise / MIB:.1f} MiB, {slope:.0f} bytes for each connection"

    def latency(self):
        """Whether the innocent waited."""
        late = [
            f"p99 of {statistics.median(p99):.1f} ms {when}, in the median of {len(p99)} rounds"
            for when, p99 in self.p99.items()
            if statistics.median(p99) > self.args.p99_ms
        ]
        slowest = sorted(((statistics.median(p99), when) for when, p99 in self.p99.items()), reverse=True)[:3]
        print("highest medians of p99: " + ", ".join(f"{p99:.0f} ms {when}" for p99, when in slowest))
        print(f"a shard waited for its CPU for {self.starved_seconds:.1f} of the {self.judged_seconds:.0f} s in which p99 was taken")
        if self.starved_seconds < self.judged_seconds / 20:
            yield from late
        else:
            print(f"other programs took that CPU, so p99 is not judged; it would have been: {'; '.join(late) or 'in bounds'}")

    def run(self):
        sampling = threading.Thread(target=self.sampling)
        sampling.start()
        try:
            enough = self.start + self.args.minutes * 60
            while not self.faults and (len(self.idle) <= ROUNDS_MIN or time.monotonic() < enough):
                self.round()
        finally:
            self.enough.set()
            sampling.join()
        if not self.faults:
            self.faults += self.growth()
        if self.args.csv:
            with open(self.args.csv, "w", newline="") as file:
                table = csv.DictWriter(file, FIELDS)
                table.writeheader()
                table.writerows(self.samples)
        peak = max((sample["rss_bytes"] for sample in self.samples), default=0)
        p99 = [each for all in self.p99.values() for each in all] or [0]
        print(f"peak {peak / MIB:.1f} MiB; p99 of the innocent: median {statistics.median(p99):.1f} ms, worst {max(p99):.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--loadgen", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--p99-ms", type=float, default=250)
    parser.add_argument("--csv")
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    half = max(1, len(cpus) // 2)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.server, folder, cpus[:half])
        try:
            soak = Soak(args, server, cpus[half:] or cpus)
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
