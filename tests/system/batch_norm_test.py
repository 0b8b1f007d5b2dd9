"""Batch norm over all ranks in the trainer: ranks that have fewer samples than others in an epoch's
last step, or none, train as one rank does."""
# labels: asan

import programs

PROGRAM = programs.BUILD / "bin" / "batch_norm_ranks"
TOLERANCE = 1e-10


class ShortBatches(programs.SystemTest):
    def state(self, ranks, *options):
        """The model's values by name, and the losses by step."""
        metrics = self.folder / f"metrics-{ranks}.jsonl"
        job = self.succeed(programs.launch(ranks, PROGRAM, "--threads", 1, "--timeout", "30s",
                                           "--metrics", metrics, *options))
        state = {name: list(map(float, values))
                 for name, *values in map(str.split, job.stdout.splitlines())}
        return state, programs.losses(metrics)

    def expect_as_one(self, ranks, *options):
        expected, expected_losses = self.state(1, *options)
        found, losses = self.state(ranks, *options)
        self.assertIn("norm.running_var", expected)
        self.assertEqual(expected.keys(), found.keys())
        for name, values in expected.items():
            self.assertEqual(len(values), len(found[name]))
            for a, b in zip(values, found[name]):
                self.assertLessEqual(abs(a - b), TOLERANCE * max(1, abs(a)), f"{name}, {ranks} ranks")
        self.assertEqual(expected_losses.keys(), losses.keys())
        for step, loss in expected_losses.items():
            self.assertLessEqual(abs(loss - losses[step]), TOLERANCE, f"step {step}")

    def test_fewer_samples_than_ranks(self):
        # Epochs end with 2 samples: ranks 0 and 2 of 4, or rank 0 of 3, have none.
        for ranks in (3, 4):
            self.expect_as_one(ranks, "--samples", 14, "--global-batch", 12, "--epochs", 3)

    def test_uneven_samples(self):
        self.expect_as_one(2, "--samples", 15, "--global-batch", 8, "--epochs", 3)

    def test_fewer_micro_batches_than_others(self):
        # Epochs end with 8 samples in two micro-batches: 2 and 0 of rank 0, 2 and 1 of the others.
        _, losses = self.state(3, "--samples", 20, "--global-batch", 12, "--micro-batch", 2,
                               "--epochs", 3)
        self.assertEqual(len(losses), 6)


if __name__ == "__main__":
    programs.main()
