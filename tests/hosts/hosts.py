"""What the tests over simulated hosts share."""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))
from programs import BUILD, SOURCE, SystemTest, run  # noqa: E402

BENCHMARK = BUILD / "bin" / "data_parallel_benchmark"


def flags_of(**values):
    return [text for name, value in values.items()
            for text in (f"--{name.replace('_', '-')}", str(value))]


class HostsTest(SystemTest):
    def simulate(self, *command, timeout=240, **options):
        result = run([SOURCE / "cluster" / "simulate", *flags_of(**options), "--", *command],
                     timeout=timeout)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def benchmark(self, name, arguments, **options):
        output = self.simulate(BENCHMARK, name, *flags_of(**arguments), **options)
        return json.loads(output.splitlines()[-1])
