"""What ./check installs and when: on a PATH where some programs are missing, and where `apt-get` only writes down its calls."""

import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DEADLINE_S = 120


class Installing(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.bin = os.path.join(self.folder, "bin")
        os.makedirs(self.bin)
        # Everything that this machine has, but for what these tests install.
        for place in os.environ["PATH"].split(":"):
            for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
                link = os.path.join(self.bin, name)
                if name not in ("node", "npm", "shellcheck", "apt-get", "id") and not os.path.lexists(link):
                    os.symlink(os.path.join(place, name), link)
        self.program("id", "echo ${FAKE_UID:-0}")
        # An apt-get that writes down its calls, and that installs each package as a program that succeeds.
        self.program("apt-get", f"""
echo "$*" >>{self.folder}/apt
[ "$1" = install ] || exit 0
[ -z "$FAKE_BROKEN" ] || exit 100
for name; do
    case $name in nodejs) name=node ;; -*|install) continue ;; esac
    printf '#!/bin/sh\\necho "$0 was called with $*"\\n' >{self.bin}/$name
    chmod +x {self.bin}/$name
done""")

    def program(self, name, script):
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, 0o755)

    def check(self, *words, **more):
        env = {k: v for k, v in os.environ.items() if k not in ("CI", "CHROMIUM")}
        env |= {"PATH": self.bin, "CARGO_TARGET_DIR": os.path.join(self.folder, "target")} | more
        done = subprocess.run(
            [os.path.join(ROOT, "check"), *words], env=env, capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
        )
        try:
            with open(os.path.join(self.folder, "apt"), encoding="utf-8") as calls:
                apt = calls.read()
        except FileNotFoundError:
            apt = ""
        return done.returncode, done.stdout, apt

    def test_it_says_what_it_installs_before_it_does(self):
        code, said, apt = self.check("client", "tuning")
        self.assertEqual(code, 0, said)
        self.assertIn("install -y -qq --no-install-recommends nodejs", apt)
        self.assertIn("install -y -qq --no-install-recommends shellcheck", apt)
        told = said.index("── missing, and installed before the part that needs it:\nclient         Debian's nodejs\ntuning         Debian's shellcheck\n")
        self.assertLess(told, said.index("── client:"))
        self.assertLess(said.index("── client:"), said.index("installing Debian's nodejs"))
        self.assertIn("node was called with --test client/test/", said)
        self.assertIn("2 passed, 0 failed, 0 skipped", said)
        # Once it is there nothing is said.
        code, said, again = self.check("client")
        self.assertEqual((code, again), (0, apt), said)
        self.assertNotIn("missing", said)

    def test_no_install_skips_what_requires_it(self):
        code, said, apt = self.check("--no-install", "client", "package", "deny")
        self.assertEqual((code, apt), (0, ""), said)
        self.assertIn("── missing, and not installed because of --no-install:\nclient         Debian's nodejs\n", said)
        self.assertIn("package        Debian's nodejs, Debian's npm", said)  # and its npm packages, unless they are there
        self.assertIn("skipped: not installed because of --no-install: Debian's nodejs\n── client: skipped", said)
        self.assertIn("0 passed, 0 failed, 3 skipped", said)

    def test_no_install_runs_what_only_uses_it(self):
        code, said, apt = self.check("tuning", "--no-install")
        self.assertEqual((code, apt), (0, ""), said)
        self.assertIn("not installed because of --no-install: Debian's shellcheck. tuning runs without it\n", said)
        self.assertIn("1 passed, 0 failed, 0 skipped", said)

    def test_no_install_runs_a_part_whose_needs_are_there(self):
        self.program("node", "exit 0")
        code, said, apt = self.check("--no-install", "client")
        self.assertEqual((code, apt), (0, ""), said)
        self.assertNotIn("missing", said)
        self.assertIn("1 passed", said)

    def test_only_root_installs(self):
        code, said, apt = self.check("client", FAKE_UID="1000")
        self.assertEqual((code, apt), (0, ""), said)
        self.assertIn("not installed, because only root can: Debian's nodejs\n── client: skipped", said)

    def test_a_failed_installation_is_a_skip_and_in_ci_a_failure(self):
        code, said, apt = self.check("client", FAKE_BROKEN="yes")
        self.assertEqual(code, 0, said)
        self.assertIn("skipped: could not install Debian's nodejs\n── client: skipped", said)
        code, said, _ = self.check("client", FAKE_BROKEN="yes", CI="true")
        self.assertEqual(code, 1, said)
        self.assertIn("could not install Debian's nodejs\n── client: FAILED", said)
        self.assertNotIn("skipped:", said)

    def test_unknown_words(self):
        for words in (("no-such-part",), ("--no-instal",), ("client", "--install")):
            code, said, apt = self.check(*words)
            self.assertEqual((code, said, apt), (2, "", ""))

    def test_every_part_is_listed_with_what_it_is(self):
        code, said, _ = self.check("--list")
        self.assertEqual(code, 0)
        for part in ("examples", "python", "soak"):
            self.assertRegex(said, rf"(?m)^{part} +\S+ \S+")


if __name__ == "__main__":
    unittest.main()
