"""Data parallelism between simulated hosts: every collective, and what crosses the links."""

import math
import unittest

from hosts import BUILD, HostsTest

SMALL = {"layers": 2, "heads": 2, "width": 128, "context": 64}


class Traffic(HostsTest):
    def test_every_collective(self):
        for hosts, ranks in ((3, 1), (2, 2)):
            output = self.simulate(BUILD / "bin" / "collectives_mpi", hosts=hosts,
                                   ranks_per_host=ranks)
            self.assertIn(f"all checks passed on {hosts * ranks} ranks", output)

    def test_bytes_on_the_wire(self):
        for hook, theory in self.theory().items():
            with self.subTest(hook=hook):
                found = self.bytes_of_a_step(hook)
                # Headers, and what ranks tell each other.
                self.assertGreater(found, theory)
                self.assertLess(found, 1.02 * theory + 5000)

    def bytes_of_a_step(self, hook):
        sent = []
        for steps in (6, 106):
            traffic = self.folder / f"{hook}-{steps}"
            self.benchmark("train", {**SMALL, "hook": hook, "rounds": steps, "batch": 1},
                           hosts=2, traffic=traffic)
            sent.append(int(traffic.read_text().split()[1]))
        return (sent[1] - sent[0]) / 100

    def theory(self):
        """What each of two ranks sends: one way to reduce half, one way to give it to the other."""
        width, vocabulary, context = SMALL["width"], 256, SMALL["context"]
        block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        matrices = [(vocabulary, width), (context, width)] + SMALL["layers"] * block
        vectors = SMALL["layers"] * [width] * 4 + [width] * 2
        vectors += SMALL["layers"] * [3 * width, width, 4 * width, width]
        values = sum(n * m for n, m in matrices) + sum(vectors)
        bytes_of = {"none": 4 * values, "bf16": 2 * values, "fp16": 2 * values}
        for rank in (1, 2, 4):
            bytes_of[f"powersgd-{rank}"] = 4 * (rank * sum(n + m for n, m in matrices) + sum(vectors))
        bytes_of["top-k"] = 8 * math.ceil(0.01 * values)
        return bytes_of


if __name__ == "__main__":
    unittest.main()
