#!/usr/bin/env python3
"""Runs Autobahn|Testsuite's fuzzing client against an echo endpoint and judges its report.

    run.py --wstest PATH --report DIRECTORY --server PATH CASES...
    run.py --wstest PATH --report DIRECTORY --url ws://127.0.0.1:9001/ CASES...
    run.py --self-test

With --server it starts that binary with `--echo` on a free port of the loopback interface and stops it at the end.
CASES are a group ("6", "10"), a part of 12 or 13 ("12.3") or a single case ("12.3.9"). Only the standard library is used.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

# What a group holds in version 25.10.1: a run that quietly leaves cases out must not pass.
CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1, "12": 90, "13": 126}
# The parts of 12 and 13 are the same sizes and fragments over other content and other parameters.
CASES.update({"12.%d" % part: 18 for part in range(1, 6)})
CASES.update({"13.%d" % part: 18 for part in range(1, 8)})

# These only report what the peer does: every good server shows INFORMATIONAL here.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

START_DEADLINE_S = 20
RUN_DEADLINE_S = {"default": 300, "deflate": 1800}


def verdict(case, result):
    """None if the result is good, else why it is not."""
    behavior, close = result.get("behavior"), result.get("behaviorClose")
    # NON-STRICT is a fault everywhere; 6.4.* is where it would show a UTF-8 check that waits for the end of a frame.
    good = {"OK", "INFORMATIONAL"} if case in INFORMATIONAL else {"OK"}
    if behavior not in good:
        return "behavior %s" % behavior
    if close not in good | {"OK"}:
        return "close %s (code %s)" % (close, result.get("remoteCloseCode"))
    return None


def judge(index, groups):
    """(number of good cases, list of (case, why)) for the one agent of a report."""
    if len(index) != 1:
        return 0, [("report", "holds %d agents, not one" % len(index))]
    (results,) = index.values()
    faults, good = [], 0
    for case in sorted(results, key=lambda name: [int(part) for part in name.split(".")]):
        why = verdict(case, results[case])
        if why is None:
            good += 1
        else:
            faults.append((case, why))
    for group in groups:
        ran = sum(1 for case in results if case == group or case.startswith(group + "."))
        due = 1 if is_case(group) else CASES[group]
        if ran != due:
            faults.append((group, "%d cases ran, not %d" % (ran, due)))
    return good, faults


def is_case(group):
    """Whether it is a single case."""
    return group.count(".") >= 2


class Server:
    """The server under test, stopped by its own pid whatever happens."""

    def __init__(self, binary, log):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("URINGCAST_")}
        environment["URINGCAST_AUTH__HS256_SECRET"] = "autobahn-" + "x" * 32
        # Group 9 echoes messages of 16 MiB; a limit of its own is tested elsewhere.
        environment["URINGCAST_LIMITS__MESSAGE_BYTES"] = str(17 << 20)
        environment["URINGCAST_LIMITS__OUTBOX_BYTES"] = str(64 << 20)
        environment["URINGCAST_COMPRESSION__MODE"] = "on"
        self.log = open(log, "wb")
        self.process = subprocess.Popen(
            [os.path.abspath(binary), "--echo", "--listen", "127.0.0.1:0"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
        )
        timer = threading.Timer(START_DEADLINE_S, self.process.kill)
        timer.start()
        line = self.process.stdout.readline().decode()
        timer.cancel()
        found = re.match(r"listening on ws://([^/]+)/ws ", line)
        if not found:
            self.stop()
            sys.exit("the server did not start: stdout %r, log in %s" % (line, log))
        self.url = "ws://%s/echo" % found.group(1)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        return self.process.returncode


def fuzz(wstest, url, groups, report):
    report.mkdir(parents=True, exist_ok=True)
    for old in report.glob("*.json"):
        old.unlink()
    spec = report / "fuzzingclient.spec"
    spec.write_text(json.dumps({
        "outdir": str(report),
        "servers": [{"agent": "uringcast", "url": url}],
        "cases": [group if is_case(group) else group + ".*" for group in groups],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }))
    deadline = RUN_DEADLINE_S["deflate" if any(group.startswith(("12", "13")) for group in groups) else "default"]
    with open(report / "wstest.log", "wb") as log:
        code = subprocess.run(
            [os.path.abspath(wstest), "-m", "fuzzingclient", "-s", str(spec)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=deadline, cwd=str(report),
        ).returncode
    index = report / "index.json"
    if code != 0 or not index.exists():
        sys.exit("wstest ended with %d and %s report; see %s" % (
            code, "a" if index.exists() else "no", report / "wstest.log"))
    return json.loads(index.read_text())


def self_test():
    """The judge itself: each kind of bad result is seen, and so is a case that did not run."""
    ok = {"behavior": "OK", "behaviorClose": "OK", "remoteCloseCode": 1000}
    assert judge({"a": {"10.1.1": ok}}, ["10"]) == (1, [])
    assert judge({"a": {"12.1.1": ok, "12.1.10": ok}}, ["12.1.1", "12.1.10"]) == (2, [])
    assert judge({"a": {"12.1.10": ok}}, ["12.1.1"])[1] and judge({"a": {"12.1.1": ok}}, ["12.1"])[1]
    for bad in [
        dict(ok, behavior="FAILED"), dict(ok, behavior="NON-STRICT"), dict(ok, behavior="UNIMPLEMENTED"),
        dict(ok, behavior="INFORMATIONAL"), dict(ok, behaviorClose="FAILED"), dict(ok, behaviorClose="WRONG CODE"),
        dict(ok, behaviorClose="UNCLEAN"), dict(ok, behaviorClose="FAILED BY CLIENT"), {},
    ]:
        assert judge({"a": {"10.1.1": bad}}, ["10"])[1], bad
    assert judge({"a": {}}, ["10"])[1]
    assert judge({}, ["10"])[1]
    assert verdict("7.1.6", dict(ok, behavior="INFORMATIONAL")) is None
    assert verdict("7.1.6", dict(ok, behavior="FAILED")) is not None
    assert verdict("12.1.1", dict(ok, behavior="UNIMPLEMENTED")) is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wstest")
    parser.add_argument("--report", type=pathlib.Path)
    parser.add_argument("--server")
    parser.add_argument("--url")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("groups", nargs="*")
    arguments = parser.parse_args()
    self_test()
    if arguments.self_test:
        return
    if not (arguments.wstest and arguments.report and arguments.groups and (arguments.server or arguments.url)):
        parser.error("--wstest, --report, a group and one of --server and --url are needed")

    report = arguments.report.resolve()
    report.mkdir(parents=True, exist_ok=True)
    server = Server(arguments.server, report / "server.log") if arguments.server else None
    died = None
    try:
        index = fuzz(arguments.wstest, server.url if server else arguments.url, arguments.groups, report)
        if server:
            died = server.process.poll()
    finally:
        code = server.stop() if server else 0
    good, faults = judge(index, arguments.groups)
    if died is not None:
        faults.append(("server", "died with %d during the run" % died))
    elif code != 0:
        faults.append(("server", "ended with %d on SIGTERM" % code))
    for case, why in faults:
        print("Autobahn %-10s %s" % (case, why))
    print("Autobahn groups %s: %d good, %d faults; report in %s" % (
        " ".join(arguments.groups), good, len(faults), report))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
