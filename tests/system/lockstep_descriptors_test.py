"""`lockstep run` with more ranks than the soft limit on descriptors seems to allow."""

import os
import resource
import subprocess
import sys
import unittest

from programs import LOCKSTEP, SystemTest

RANKS, SOFT = 60, 100

# An mpirun that starts ranks one after the other.
MPIRUN = """
import os, subprocess, sys
words = sys.argv[sys.argv.index("rank-of") - 1:]
for rank in range(int(sys.argv[sys.argv.index("-n") + 1])):
    subprocess.run(words, env={**os.environ, "OMPI_COMM_WORLD_RANK": str(rank)}, check=True)
"""


def lower():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, hard))


class Descriptors(SystemTest):
    def test_the_limit_is_raised_for_the_launcher_and_not_for_the_ranks(self):
        mpirun = self.folder / "mpirun"
        mpirun.write_text(f"#!{sys.executable}\n{MPIRUN}")
        mpirun.chmod(0o755)
        path = f"{self.folder}:{os.environ['PATH']}"
        job = subprocess.run([LOCKSTEP, "run", "-n", str(RANKS), "--oversubscribe", "--log-dir",
                              self.folder / "log", "--", "sh", "-c", "ulimit -Sn"],
                             capture_output=True, text=True, timeout=60, preexec_fn=lower,
                             env={**os.environ, "PATH": path})
        self.assertEqual(job.returncode, 0, job.stderr)
        self.assertEqual(sorted(job.stdout.splitlines()),
                         sorted(f"[{rank}] {SOFT}" for rank in range(RANKS)))

    def test_with_the_real_mpirun(self):
        job = subprocess.run([LOCKSTEP, "run", "-n", "2", "--", "sh", "-c", "ulimit -Sn"],
                             capture_output=True, text=True, timeout=60, preexec_fn=lower)
        self.assertEqual(job.returncode, 0, job.stderr)
        self.assertEqual(sorted(job.stdout.splitlines()), [f"[0] {SOFT}", f"[1] {SOFT}"])


if __name__ == "__main__":
    unittest.main()
