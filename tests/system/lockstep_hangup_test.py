"""`lockstep run` whose terminal closes: the ranks save and stop, unless it was told to go on."""

import os
import pathlib
import pty
import signal
import subprocess
import sys
import time
import unittest

from programs import LOCKSTEP, SystemTest

# Says in files when it is there and when it was asked to stop, and takes a moment to save.
RANK = """
import os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[1]), os.environ.get("OMPI_COMM_WORLD_RANK", "0")
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
(folder / f"ready-{rank}").touch()
while not asked and not (folder / "end").exists(): time.sleep(0.01)
time.sleep(0.5)
if asked: (folder / f"saved-{rank}").touch()
sys.exit(75 if asked else 0)
"""


class Hangup(SystemTest):
    def command(self, ranks):
        return [str(LOCKSTEP), "run", "-n", str(ranks), "--oversubscribe", "--", sys.executable,
                "-c", RANK, str(self.folder)]

    def start(self, ranks, **options):
        job = subprocess.Popen(self.command(ranks), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, **options)
        self.addCleanup(lambda: job.poll() is None and (job.kill(), job.communicate()))
        self.wait_for("ready", ranks)
        return job

    def wait_for(self, what, ranks):
        deadline = time.monotonic() + 30
        while len(list(self.folder.glob(f"{what}-*"))) < ranks:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_it_is_a_request_to_stop_and_a_second_one_changes_nothing(self):
        for ranks in (1, 2):
            for path in self.folder.glob("*-*"):
                path.unlink()
            job = self.start(ranks)
            job.send_signal(signal.SIGHUP)
            time.sleep(0.1)
            job.send_signal(signal.SIGHUP)
            _, errors = job.communicate(timeout=30)
            self.assertEqual(job.returncode, 75, errors)
            self.assertIn("Hangup: asked the ranks to save and stop", errors)
            self.assertEqual(len(list(self.folder.glob("saved-*"))), ranks)

    def test_it_is_ignored_where_it_was(self):
        job = self.start(2, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        job.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        self.assertIsNone(job.poll())
        pathlib.Path(self.folder, "end").touch()
        _, errors = job.communicate(timeout=30)
        self.assertEqual(job.returncode, 0, errors)
        self.assertEqual(errors, "")

    def test_a_terminal_that_closes(self):
        launcher, terminal = pty.fork()
        if launcher == 0:
            os.execv(LOCKSTEP, self.command(2))
        self.wait_for("ready", 2)
        os.close(terminal)
        _, status = os.waitpid(launcher, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 75)
        self.assertEqual(len(list(self.folder.glob("saved-*"))), 2)


if __name__ == "__main__":
    unittest.main()
