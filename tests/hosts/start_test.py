"""Ranks on simulated hosts, started as README shows: nothing says how many are on a host."""

import re

from hosts import HostsTest
from programs import GPT, main

# Open MPI's own numbers of a host's ranks would say it.
AS_README = """
unset OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE
export LOCKSTEP_LOG_LEVEL=info
export RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=2 LOCAL_RANK=0
MASTER_ADDR=host1 MASTER_PORT=29500 exec "$@" 2>&1
"""


class Start(HostsTest):
    def test_the_variables_that_readme_shows(self):
        command = [GPT, "--data", self.text(), "--steps", 2, "--layers", 1, "--heads", 1,
                   "--width", 16, "--context", 16, "--global-batch", 4, "--timeout", "10s",
                   "--device", "cpu", "--quiet"]
        output = self.simulate("sh", "-c", AS_README, "sh", *command, timeout=60)
        self.assertIn("the ranks meet at host1:", output)
        places = re.findall(r"rank (\d) is one of (\d) on this host, with \d+ threads", output)
        self.assertEqual(sorted(places), [("0", "1"), ("1", "1")], output)


if __name__ == "__main__":
    main()
