"""What tuning/uringcast.service promises about files, without systemd: the paths are read from the unit itself.

Root's key files come to the server as copies that only it can read, the revocations file lies in the one folder that it
may write to, and a revocation outlives a restart. As under DynamicUser the server runs as a user without rights.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BINARY = os.path.abspath(os.environ.get("URINGCAST_BIN", "target/quick/uringcast"))
DEADLINE_S = 20
NOBODY = 65534


def unit():
    with open(os.path.join(ROOT, "tuning", "uringcast.service"), encoding="utf-8") as file:
        return file.read()


@unittest.skipUnless(os.geteuid() == 0, "only root can give files to another user")
class Service(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        os.chmod(self.root, 0o755)
        self.unit = unit()
        self.key = secrets.token_hex(32)
        binary = self.path("/usr/local/bin/uringcast")
        shutil.copy(BINARY, binary)
        # Root's own, as the comments of the unit have them.
        self.sources = dict(re.findall(r"^#?LoadCredential=(\w+):(\S+)$", self.unit, flags=re.M))
        for name, content in (("hs256_secret", secrets.token_hex(32)), ("api_keys", self.key)):
            with open(self.path(self.sources[name]), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                file.write(content + "\n")
        # What systemd does at start: a copy of each credential, and the StateDirectory.
        for name in ("hs256_secret", "api_keys"):
            copy = self.path(f"/run/credentials/uringcast.service/{name}")
            shutil.copy(self.path(self.sources[name]), copy)
            os.chmod(copy, 0o400)
            os.chown(copy, NOBODY, NOBODY)
        self.state = self.path("/var/lib/" + re.search(r"^StateDirectory=(\S+)$", self.unit, flags=re.M)[1] + "/x")[:-2]
        os.chmod(self.state, int(re.search(r"^StateDirectoryMode=(\d+)$", self.unit, flags=re.M)[1], 8))
        os.chown(self.state, NOBODY, NOBODY)
        # The lines that the comments tell people to write.
        wanted = dict(re.findall(r'^#   \[auth\] (\w+) = "(/[^"]+)"$', self.unit, flags=re.M))
        self.assertEqual(set(wanted), {"revocations_file", "hs256_secret_file"})
        lines = ['listen = "127.0.0.1:0"', "shards = 1", "[http]", 'listen = "127.0.0.1:0"']
        lines.append(f'keys_file = "{self.root}/run/credentials/uringcast.service/api_keys"')
        lines += ["[auth]", *(f'{key} = "{self.root}{path}"' for key, path in wanted.items())]
        with open(self.path("/etc/uringcast/uringcast.toml"), "w", encoding="utf-8") as file:
            file.write("\n".join(lines))

    def path(self, path):
        """A path of the unit below this test's folder; the folders above it are made."""
        below = self.root + path
        os.makedirs(os.path.dirname(below), exist_ok=True)
        return below

    def serve(self, work):
        """Starts the ExecStart line as a user without rights, and hands `work` the API's address."""
        command = re.search(r"^ExecStart=(.*)$", self.unit, flags=re.M)[1].replace("/usr/", f"{self.root}/usr/")
        command = command.replace("/etc/", f"{self.root}/etc/").split()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("URINGCAST_")}
        process = subprocess.Popen(
            command, env=environment, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", umask=0o077,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        timer = threading.Timer(DEADLINE_S, process.kill)
        timer.start()
        try:
            log = []
            for line in process.stderr:
                log.append(line)
                if found := re.search(r"HTTP API on (http://\S+)", line):
                    work(found[1])
                    process.send_signal(signal.SIGTERM)
                    break
            else:
                self.fail("".join(log))
            log += process.stderr.readlines()
            self.assertEqual(process.wait(), 0, "".join(log))
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stderr.close()

    def post(self, api, path, body):
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{api}/api/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return json.load(answer)

    def test_keys_of_root_and_revocations_that_outlive_a_restart(self):
        file = os.path.join(self.state, "revocations")
        self.serve(lambda api: self.post(api, "revoke", {"token_id": "the first"}))
        with open(file, encoding="utf-8") as lines:
            first = lines.read()
        self.assertIn("the first", first)
        self.serve(lambda api: self.post(api, "revoke", {"token_id": "the second"}))
        with open(file, encoding="utf-8") as lines:
            both = lines.read()
        self.assertIn("the first", both)
        self.assertIn("the second", both)

    def test_the_keys_themselves_stay_roots(self):
        # The copies are needed: as the service's user the originals can't be read.
        for name in ("hs256_secret", "api_keys"):
            original = self.root + self.sources[name]
            read = subprocess.run(["cat", original], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True)
            self.assertNotEqual(read.returncode, 0)


if __name__ == "__main__":
    unittest.main()
