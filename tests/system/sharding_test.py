"""Sharded training as users run it: the same losses however state is shared out, checkpoints that any
other way of sharing goes on from, uneven shares, limits of memory, failures."""

import itertools
import json
import unittest

from programs import BUILD, GPT, SystemTest, events, launch, losses, mpirun, run

MODEL = ["--layers", "3", "--heads", "2", "--width", "48", "--context", "32"]
LEVELS = ("none", "optimizer", "gradients", "parameters")


class Sharding(SystemTest):
    def setUp(self):
        super().setUp()
        self.data = self.text()

    def command(self, directory, *flags):
        return [GPT, "--data", self.data, *MODEL, "--global-batch", "12", "--micro-batch", "2",
                "--learning-rate", "0.01", "--precision", "f64", "--quiet", "--threads", "1",
                "--run-dir", self.folder / directory, *flags]

    def train(self, ranks, directory, *flags, code=0):
        result = run(launch(ranks, *self.command(directory, *flags)))
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def expect_losses(self, directory, expected, tolerance=1e-10):
        found = losses(self.folder / directory / "metrics.jsonl")
        self.assertEqual(found.keys(), expected.keys())
        for step, loss in expected.items():
            self.assertLess(abs(found[step] - loss), tolerance * loss, f"{directory}, step {step}")

    def test_one_training(self):
        flags = ["--steps", "8", "--validation-fraction", "0.1", "--validation-every", "3"]
        self.train(1, "alone", *flags)
        expected = losses(self.folder / "alone" / "metrics.jsonl")
        for ranks, level in ((2, "optimizer"), (3, "gradients"), (3, "parameters")):
            directory = f"{level}-{ranks}"
            self.train(ranks, directory, *flags, "--shard", level, "--bucket-mb", "0.1")
            self.expect_losses(directory, expected)

    def test_a_short_last_batch_leaves_ranks_without_samples(self):
        self.data = self.text(size=32 * 27)  # 26 samples: 12, 12 and 2
        self.train(1, "alone", "--epochs", "1")
        expected = losses(self.folder / "alone" / "metrics.jsonl")
        self.assertEqual(len(expected), 3)
        for level in LEVELS[1:]:
            self.train(3, level, "--epochs", "1", "--shard", level)
            self.expect_losses(level, expected)

    def test_any_sharding_goes_on_from_any_other(self):
        self.train(1, "alone", "--steps", "9")
        expected = losses(self.folder / "alone" / "metrics.jsonl")
        ways = [(1, "none"), (2, "parameters"), (3, "optimizer"), (2, "none"), (3, "parameters"),
                (2, "gradients"), (1, "parameters"), (3, "none"), (2, "optimizer")]
        for step, (ranks, level) in enumerate(ways, 1):
            # The schedule's length must not depend on where a part ends.
            self.train(ranks, "parts", "--steps", str(step), "--schedule", "constant", "--shard", level)
        self.train(1, "whole", "--steps", "9", "--schedule", "constant")
        self.expect_losses("parts", losses(self.folder / "whole" / "metrics.jsonl"))
        self.assertEqual(len(expected), 9)
        shards = sorted((self.folder / "parts" / "checkpoints" / "step-00000009").iterdir())
        self.assertEqual([path.name for path in shards],
                         ["manifest.json", "shard-00000-of-00002.safetensors",
                          "shard-00001-of-00002.safetensors"])

    def test_each_rank_writes_what_it_holds(self):
        self.train(2, "run", "--steps", "1", "--shard", "parameters")
        manifest = json.loads((self.folder / "run/checkpoints/step-00000001/manifest.json").read_text())
        sizes = [file["bytes"] for file in manifest["files"]]
        self.assertLess(max(sizes), 1.05 * min(sizes))

    def test_samples_and_exports_of_a_sharded_model(self):
        for level in ("none", "parameters"):
            result = self.train(2, f"run-{level}", "--steps", "3", "--shard", level, "--sample", "20",
                                "--temperature", "0", "--export", self.folder / f"export-{level}")
            self.assertGreater(len(result.stdout), 10)
        models = [(self.folder / f"export-{level}" / "model.safetensors").read_bytes()
                  for level in ("none", "parameters")]
        self.assertEqual(len(models[0]), len(models[1]))
        result = run([GPT, "--data", self.data, "--init-from", self.folder / "export-parameters",
                      "--heads", "2", "--steps", "1", "--quiet", "--shard", "parameters"])
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_a_model_too_large_for_one_rank(self):
        flags = ["--width", "256", "--layers", "6", "--global-batch", "2", "--micro-batch", "1",
                 "--context", "8", "--precision", "f32", "--steps", "2", "--memory-limit", "60MiB"]
        result = self.train(2, "whole", *flags, code=1)
        self.assertIn("memory", result.stderr)
        self.train(2, "sharded", *flags, "--shard", "parameters")

    def test_a_rank_that_fails_takes_the_others_with_it(self):
        for level in LEVELS[1:]:
            with self.subTest(level=level):
                flags = ["--steps", "2", "--shard", level]
                self.train(2, f"well-{level}", *flags)
                step = events(self.folder / f"well-{level}" / "metrics.jsonl", "step")[0]
                command = self.command(f"fails-{level}", *flags)
                # Less than a step takes, and on rank 1 alone.
                limit = ["--memory-limit", int(0.95 * step["memory_bytes"])]
                result = run([*mpirun(1, *command), ":", "-n", "1", *command, *limit], timeout=60)
                self.assertNotEqual(result.returncode, 0)
                self.assertRegex(result.stderr, r"rank 1( has failed in|:) step 1, phase \w+: out of memory")
                self.assertNotIn("rank 0 has failed", result.stderr)

    def test_bad_flags(self):
        result = run([*self.command("x", "--steps", "1", "--shard", "optimizer", "--bucket-mb", "auto")])
        self.assertEqual(result.returncode, 2)
        self.assertIn("--bucket-mb auto", result.stderr)
        result = run([*self.command("x", "--steps", "1", "--shard", "everything")])
        self.assertEqual(result.returncode, 2)


class Memory(SystemTest):
    """What Adam holds after a step, and the most that a step held, as the allocator counts it."""

    def measure(self, ranks, level, precision):
        result = run(launch(ranks, BUILD / "bin" / "data_parallel_benchmark", "train", "--layers", "8",
                            "--heads", "4", "--width", "256", "--context", "4", "--batch", "1",
                            "--rounds", "4", "--bucket-mb", "1", "--shard", level,
                            "--precision", precision))
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout.splitlines()[-1])

    def theory(self, ranks, level, precision):
        """Bytes of a parameter that Adam needs on each rank."""
        values = 4 if precision == "f32" else 6
        return {"none": values + 12, "optimizer": values + 4 + 8 / ranks,
                "gradients": values + 12 / ranks, "parameters": 16 / ranks}[level]

    def test_bytes_of_a_parameter(self):
        block = 4 * (12 * 256 + 13) * 256
        for ranks, level, precision in itertools.product((2, 4), LEVELS, ("f32", "bf16")):
            with self.subTest(ranks=ranks, level=level, precision=precision):
                found = self.measure(ranks, level, precision)
                held = self.theory(ranks, level, precision) * found["parameters"]
                # Two buckets of gradients, one of which fills while the other travels; where parameters
                # are gathered buckets are blocks, and the values of two blocks are there, one in use
                # and one expected.
                flying = {"none": 0, "optimizer": 0, "gradients": 2 * 1.3 * 2**20,
                          "parameters": 4 * block}[level]
                self.assertGreater(found["held_bytes"], 0.99 * held)
                self.assertLess(found["held_bytes"], 1.03 * held + flying / 4)
                # Where the machine cannot multiply in 16 bits, operands are converted on the way.
                activations = (1.2 if precision == "f32" else 3.2) * 2**20
                self.assertLess(found["peak_bytes"], 1.03 * held + flying + activations)


if __name__ == "__main__":
    unittest.main()
