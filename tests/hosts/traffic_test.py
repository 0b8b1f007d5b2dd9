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
                found = self.bytes_of_a_step(hook=hook)
                # Headers, and what ranks tell each other.
                self.assertGreater(found, theory)
                self.assertLess(found, 1.02 * theory + 5000)

    def test_bytes_of_sharding(self):
        """Stages 1 and 2 send what plain data parallelism sends; stage 3 gathers parameters twice."""
        values = self.values()
        for shard, theory in {"optimizer": 4 * values, "gradients": 4 * values,
                              "parameters": self.gathered() + 2 * values}.items():
            with self.subTest(shard=shard):
                found = self.bytes_of_a_step(shard=shard)
                self.assertGreater(found, theory)
                # And more small messages: the norm, and the values of each block.
                self.assertLess(found, 1.02 * theory + 10000)

    def bytes_of_a_step(self, **kind):
        sent = []
        for steps in (6, 106):
            traffic = self.folder / f"{'-'.join(kind.values())}-{steps}"
            self.benchmark("train", {**SMALL, **kind, "rounds": steps, "batch": 1},
                           hosts=2, traffic=traffic)
            sent.append(int(traffic.read_text().split()[1]))
        return (sent[1] - sent[0]) / 100

    def matrices(self):
        width = SMALL["width"]
        block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        return [(256, width), (SMALL["context"], width)] + SMALL["layers"] * block

    def vectors(self):
        width = SMALL["width"]
        return SMALL["layers"] * ([width] * 4 + [3 * width, width, 4 * width, width]) + [width] * 2

    def values(self):
        return sum(n * m for n, m in self.matrices()) + sum(self.vectors())

    def gathered(self):
        """Half of everything, twice; the position table's values have no use in backward, and the
        token table, which is the last layer too, is still there when backward begins."""
        return 2 * (2 * self.values() - SMALL["context"] * SMALL["width"])

    def theory(self):
        """What each of two ranks sends: one way to reduce half, one way to give it to the other."""
        matrices, vectors, values = self.matrices(), self.vectors(), self.values()
        bytes_of = {"none": 4 * values, "bf16": 2 * values, "fp16": 2 * values}
        for rank in (1, 2, 4):
            bytes_of[f"powersgd-{rank}"] = 4 * (rank * sum(n + m for n, m in matrices) + sum(vectors))
        bytes_of["top-k"] = 8 * math.ceil(0.01 * values)
        return bytes_of


if __name__ == "__main__":
    unittest.main()
