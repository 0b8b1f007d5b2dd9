"""cluster/simulate: runs that begin at once stay apart."""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))
from programs import ENVIRONMENT, SOURCE  # noqa: E402

# In process namespaces of their own all have the same process ids, which their numbers come from.
APART = ["unshare", "--pid", "--fork", "--mount-proc"]


class Simulate(unittest.TestCase):
    def test_runs_with_the_same_process_id_do_not_meet(self):
        command = [*APART, SOURCE / "cluster" / "simulate", "--hosts", "2", "--", "sh", "-c",
                   "hostname; sleep 1"]
        jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env=ENVIRONMENT) for _ in range(4)]
        for job in jobs:
            output, errors = job.communicate(timeout=60)
            self.assertEqual(job.returncode, 0, errors)
            self.assertEqual(sorted(output.split()), ["host1", "host2"], errors)


if __name__ == "__main__":
    unittest.main()
