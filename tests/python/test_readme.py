"""The shell blocks of README.md, docs/loadgen.md and examples/README.md, pasted as they are into a fresh shell.

Each runs in a network namespace of its own, where the default ports are free, and in a folder where `target/release`
holds the programs under test. `cargo` and `openssl` are what a newcomer has; here `cargo` only starts what was built.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BINARY = os.path.abspath(os.environ.get("URINGCAST_BIN", "target/quick/uringcast"))
DEADLINE_S = 120

CARGO = """#!/bin/sh
case "$1 $2" in
"run --release") shift 2; [ "$1" = -- ] && shift; exec target/release/uringcast "$@" ;;
"build --release") exit 0 ;;
"bench --bench") exit 0 ;;
esac
echo "not a command of the README: cargo $*" >&2
exit 1
"""


def blocks(file, language="sh"):
    """The code blocks of one language, by the heading that they stand under."""
    with open(os.path.join(ROOT, file), encoding="utf-8") as text:
        parts = re.split(r"^## (.*)\n", text.read(), flags=re.M)[1:]
    found = {}
    for title, body in zip(parts[::2], parts[1::2]):
        found[title] = re.findall(rf"^```{language}\n(.*?)^```", body, flags=re.M | re.S)
    return found


def namespace():
    """The command that gives a program a network of its own, or None where that is not allowed."""
    for command in (["unshare", "-n"], ["unshare", "-Urn"]):
        try:
            if subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, timeout=20).returncode == 0:
                return command
        except FileNotFoundError:
            return None
    return None


NAMESPACE = namespace()


@unittest.skipIf(NAMESPACE is None, "no network namespace can be had here (unshare, ip)")
class Readme(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        os.makedirs(os.path.join(self.folder, "target"))
        os.makedirs(os.path.join(self.folder, "bin"))
        os.symlink(os.path.dirname(BINARY), os.path.join(self.folder, "target", "release"))
        for name in ("benches", "examples"):
            os.symlink(os.path.join(ROOT, name), os.path.join(self.folder, name))
        cargo = os.path.join(self.folder, "bin", "cargo")
        with open(cargo, "w", encoding="utf-8") as script:
            script.write(CARGO)
        os.chmod(cargo, 0o755)

    def paste(self, script):
        """Runs lines in a new shell as somebody pastes them; what is still running afterwards is stopped."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("URINGCAST_")}
        env["PATH"] = os.path.join(self.folder, "bin") + ":" + env["PATH"]
        process = subprocess.Popen(
            [*NAMESPACE, "bash", "-c", "ip link set lo up\n" + script], cwd=self.folder, env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
        )
        # The output ends when the shell and all that it started in the background have ended.
        lines = []
        timer = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.alarm(DEADLINE_S)
        try:
            for line in process.stdout:
                lines.append(line)
                if line.endswith("that was all\n"):
                    os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, timer)
            process.stdout.close()
        told = "".join(lines)
        self.assertIn("that was all\n", told)
        return told

    def test_try_it(self):
        (block,) = blocks("README.md")["Try it"]
        script = block.rstrip().replace("     #", " & #", 1)
        self.assertIn(" & #", script)
        page = "curl -sS --retry 9 --retry-connrefused http://127.0.0.1:2345/"
        told = self.paste(f"{script}\n{page}\n{page}app.js\n{page}favicon.ico\necho that was all")
        self.assertIn("dev mode: listens on this machine only", told)
        for part in ("<!doctype html>", "import { Uringcast }", "<svg"):
            self.assertIn(part, told)

    def test_pages_of_other_origins_and_a_channel_that_members_publish_to(self):
        (block,) = blocks("README.md")["A client"]
        get = "curl -sS --retry 9 --retry-connrefused -i -H 'Origin: http://localhost:5173' http://127.0.0.1:2345"
        told = self.paste(f"{block.rstrip()} &\n{get}/uringcast.js\n{get}/token?name=Alice\necho that was all")
        self.assertIn("Access-Control-Allow-Origin: *", told)
        self.assertIn("export class Uringcast", told)
        self.assertIn("Access-Control-Allow-Origin: http://localhost:5173", told)
        self.assertRegex(told, r'\{"token":"[\w-]+\.[\w-]+\.[\w-]+"\}')

    def test_publish_from_your_backend(self):
        (block,) = blocks("README.md")["Publish from your backend"]
        told = self.paste(f"{block}\necho that was all")
        self.assertRegex(told, r'\{"channel":"news","epoch":"\w+","offset":1\}')
        self.assertRegex(told, r'\{"results":\[\{"channel":"lobby","epoch":"\w+","offset":1\},\{"channel":"news",.*"offset":2\}\]\}')
        self.assertIn('"data":{"headline":"It works"}', told)
        self.assertIn('"count":0', told)
        self.assertNotIn('"error"', told)

    def test_the_examples_server(self):
        (block,) = blocks("examples/README.md")["Start a server"]
        told = self.paste(f"""{block}\n./publish.sh news '{{"headline":"It works"}}'\necho that was all""")
        self.assertRegex(told, r'\{"channel":"news","epoch":"\w+","offset":1\}')

    def test_serve_for_real(self):
        (block,) = blocks("README.md")["Serve for real"]
        # The token that it prints signs in.
        probe = (
            "token=$(target/release/uringcast token --user 1 --name Alice)\n"
            'target/release/loadgen connect -c 1 --url ws://127.0.0.1:2345/ws --token "$token" --settle 0\n'
        )
        told = self.paste(f"{block}\n{probe}echo that was all")
        self.assertRegex(told, r"(?m)^eyJ[\w-]+\.[\w-]+\.[\w-]+$")
        self.assertRegex(told, r"PASS")

    def test_measure_it(self):
        if not {0, 1} <= os.sched_getaffinity(0):
            self.skipTest("the blocks name CPU 0 and CPU 1")
        for block in (blocks("README.md")["Measure it"][0], blocks("docs/loadgen.md")["Commands"][0]):
            told = self.paste(block + "\necho that was all")
            self.assertEqual(told.count("PASS"), 2, told)

    def test_one_block_after_the_other_in_one_shell(self):
        titles = ("Publish from your backend", "Serve for real", "Measure it")
        publish, serve, measure = (blocks("README.md")[title][0] for title in titles)
        (stop,) = re.findall(r"^# (kill \$!) ", serve, flags=re.M)
        # Only whether the servers start: what the rest does, the other tests see.
        measure = re.sub(r"(?m)^target/release/loadgen (\w+) .*", r"target/release/loadgen connect -c 1 --settle 0 # \1", measure)
        up = "curl -sS --retry 9 --retry-connrefused -o /dev/null http://127.0.0.1:2345/uringcast.js"
        told = self.paste(f"{publish}\nwait\n{serve}\n{up}\n{stop}; wait\n{measure}\nwait\necho that was all")
        self.assertEqual((told.count("listening on"), told.count("PASS")), (3, 2), told)
        self.assertNotIn("cannot listen", told)


class Configurations(unittest.TestCase):
    def test_each_configuration_in_the_docs_is_taken(self):
        count = 0
        for file in ("README.md", *(f"docs/{name}" for name in sorted(os.listdir(os.path.join(ROOT, "docs"))))):
            if not file.endswith(".md") or file == "docs/loadgen.md":  # where they are the load generator's
                continue
            with open(os.path.join(ROOT, file), encoding="utf-8") as text:
                found = re.findall(r"^```toml\n(.*?)^```", text.read(), flags=re.M | re.S)
            for block in found:
                with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
                    config.write(block)
                    config.flush()
                    env = {k: v for k, v in os.environ.items() if not k.startswith("URINGCAST_")}
                    done = subprocess.run([BINARY, "config", "--config", config.name], env=env, capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, f"{file}: {done.stderr}\n{block}")
                count += 1
        self.assertGreaterEqual(count, 2)


class WhatANewcomerGetsWrong(unittest.TestCase):
    """Each message says what to do."""

    def start(self, *flags, **environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith("URINGCAST_")}
        done = subprocess.run(
            [BINARY, *flags], env=env | environment, capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
        )
        self.assertEqual(done.returncode, 1, done)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def test_no_secret(self):
        said = self.start("serve", "--listen", "127.0.0.1:0")
        for way in ("URINGCAST_AUTH__HS256_SECRET", "openssl rand -base64 32", "uringcast --dev"):
            self.assertIn(way, said)

    def test_no_such_file(self):
        said = self.start("--config", "/no/such.toml")
        self.assertRegex(said, r"^uringcast: /no/such.toml: cannot read the configuration file: No such file")

    def test_a_port_in_use(self):
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            said = self.start("--dev", "--listen", f"127.0.0.1:{port}")
        self.assertIn(f"127.0.0.1:{port}", said)
        self.assertIn("in use", said)
        self.assertIn("--listen", said)

    def test_a_level_that_is_none(self):
        said = self.start("--dev", "--listen", "127.0.0.1:0", URINGCAST_LOG__LEVEL="verbose")
        self.assertIn('URINGCAST_LOG__LEVEL: log.level: "verbose" is not a level: write one of off, error, warn', said)

    def test_an_origin_that_no_page_has(self):
        said = self.start("--dev", "--listen", "127.0.0.1:0", URINGCAST_ORIGINS="https://example.com/")
        self.assertIn('URINGCAST_ORIGINS: origins: "https://example.com/" matches no page', said)
        self.assertIn("write https://example.com\n", said)


if __name__ == "__main__":
    unittest.main()
