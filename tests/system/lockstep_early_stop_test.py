"""`lockstep run`: a request to stop that comes before the ranks have."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

LOCKSTEP = pathlib.Path(os.environ["BUILD_DIR"]) / "bin" / "lockstep"

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


class EarlyStop(unittest.TestCase):
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
