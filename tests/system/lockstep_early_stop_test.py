"""`lockstep run`: a request to stop that comes while the job starts."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from programs import GPT, LOCKSTEP, SystemTest

# An mpirun that takes its time. As the real one it forwards a signal to the ranks that there are: to
# nobody, at first.
MPIRUN = """
import os, pathlib, signal, subprocess, sys, time
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
pathlib.Path(os.environ["READY"]).touch()
time.sleep(1)
lost = bool(asked)
words = sys.argv[sys.argv.index("rank-of") - 1:]
for rank in "01":
    subprocess.run(words, env={**os.environ, "OMPI_COMM_WORLD_RANK": rank})
deadline = time.monotonic() + 20
while not asked and time.monotonic() < deadline:
    time.sleep(0.01)
sys.exit(3 if lost else 75 if asked else 4)
"""

# Sees to the request only after a while, as a program does that is large or far away.
SLOW = """
import signal, sys, time
time.sleep(0.7)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
time.sleep(30)
"""


def holds_signals(pid):
    """Whether the launcher has begun to take requests: before, they end it."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    blocked = next(line for line in text.splitlines() if line.startswith("SigBlk:"))
    return int(blocked.split()[1], 16) >> (signal.SIGTERM - 1) & 1


class EarlyStop(SystemTest):
    def start(self, ranks, *command):
        job = subprocess.Popen([LOCKSTEP, "run", "-n", str(ranks), "--oversubscribe", "--",
                                *map(str, command)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: job.poll() is None and (job.kill(), job.communicate()))
        while not holds_signals(job.pid):
            time.sleep(0.001)
        return job

    def test_a_request_during_the_start_is_heard(self):
        text = self.text()
        for ranks in (1, 2):
            for delay in (0.005, 0.02, 0.04, 0.08, 0.16):
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    with self.subTest(ranks=ranks, delay=delay, signal=number):
                        folder = self.folder / f"{ranks}-{delay}-{number}"
                        job = self.start(ranks, GPT, "--data", text, "--layers", 1, "--heads", 1,
                                         "--width", 16, "--context", 16, "--steps", 100000,
                                         "--global-batch", 4, "--threads", 1, "--quiet",
                                         "--device", "cpu", "--run-dir", folder)
                        time.sleep(delay)
                        job.send_signal(number)
                        _, errors = job.communicate(timeout=60)
                        self.assertEqual(job.returncode, 75, errors)
                        self.assertTrue(list(folder.glob("checkpoints/step-*/manifest.json")))

    def test_a_program_may_take_a_while_to_see_to_requests(self):
        for ranks in (1, 2):
            job = self.start(ranks, sys.executable, "-c", SLOW)
            time.sleep(0.3)
            job.send_signal(signal.SIGTERM)
            _, errors = job.communicate(timeout=60)
            self.assertEqual(job.returncode, 75, errors)

    def test_a_program_that_never_does_is_ended(self):
        for ranks in (1, 2):
            job = self.start(ranks, "sleep", 30)
            job.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            _, errors = job.communicate(timeout=60)
            self.assertEqual(job.returncode, 128 + signal.SIGUSR1, errors)
            self.assertLess(time.monotonic() - begin, 8)

    def test_the_launcher_listens_while_it_waits_for_a_program(self):
        job = self.start(1, "sleep", 30)
        job.send_signal(signal.SIGTERM)
        self.assertIn("asked the ranks", job.stderr.readline())
        begin = time.monotonic()
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=60)
        self.assertEqual(job.returncode, 128 + signal.SIGINT)
        self.assertLess(time.monotonic() - begin, 1.5)

    def test_a_request_waits_for_the_ranks(self):
        with tempfile.TemporaryDirectory() as folder:
            mpirun, ready = pathlib.Path(folder, "mpirun"), pathlib.Path(folder, "ready")
            mpirun.write_text(f"#!{sys.executable}\n{MPIRUN}")
            mpirun.chmod(0o755)
            job = subprocess.Popen([LOCKSTEP, "run", "-n", "2", "--", "/bin/true"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "PATH": folder, "READY": str(ready)})
            self.addCleanup(lambda: job.poll() is None and (job.kill(), job.communicate()))
            while not ready.exists() and job.poll() is None:
                time.sleep(0.01)
            job.send_signal(signal.SIGTERM)
            _, errors = job.communicate(timeout=60)
            self.assertEqual(job.returncode, 75, errors)


if __name__ == "__main__":
    unittest.main()
