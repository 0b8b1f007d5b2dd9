"""What the system tests share: starting programs alone or under mpirun, and reading what they wrote."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD_DIR", SOURCE / "build"))
DATA = SOURCE / "tests" / "data"
GPT = BUILD / "bin" / "gpt"
LOCKSTEP = BUILD / "bin" / "lockstep"

ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def mpirun(ranks, *command):
    return ["mpirun", "-q", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *map(str, command)]


def launch(ranks, *command):
    """The command alone for one rank, under mpirun for more."""
    return list(map(str, command)) if ranks == 1 else mpirun(ranks, *command)


def run(command, timeout=120, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace",
                          timeout=timeout,
                          env=options.pop("env", ENVIRONMENT), **options)


def events(path, kind=None):
    found = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    return [event for event in found if kind is None or event["event"] == kind]


def losses(path):
    """Loss of each step; a step that a resumed run did again counts as it was the last time."""
    return {event["step"]: event["loss"] for event in events(path, "step")}


class SystemTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def text(self, name="text.txt", size=20000):
        words = "in the beginning God created heaven and earth and it was without form ".split()
        state, parts = 1, []
        while sum(map(len, parts)) + len(parts) < size:
            state = (state * 1103515245 + 12345) % 2**31
            parts.append(words[(state >> 16) % len(words)])
        path = self.folder / name
        path.write_text(" ".join(parts)[:size])
        return path

    def refused(self, command, *said, code=2, ranks=(1, 2)):
        for count in ranks:
            with self.subTest(ranks=count, command=command):
                result = run(launch(count, *command), timeout=60)
                lines = result.stderr.strip().splitlines()
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertEqual(len(lines), 1, result.stderr)
                for words in said:
                    self.assertIn(str(words), lines[0])

    def succeed(self, command, **options):
        result = run(command, **options)
        self.assertEqual(result.returncode, 0, f"{command}\n{result.stdout}\n{result.stderr}")
        return result


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]], verbosity=1)
