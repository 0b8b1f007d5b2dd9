"""gpt in 16 bits follows f32 over 200 steps at any number of ranks; an overflow on one rank makes
all skip the step."""

import json
import unittest

from programs import BUILD, DATA, GPT, SystemTest, events, launch, main, mpirun, run

CASE = DATA / "gpt2_tiny"
SETTINGS = json.loads((CASE / "expected.json").read_text())["attributes"]
STEPS = 200
# Largest difference of a step's loss from f32's, and of the mean of the last 20; the same between
# numbers of ranks, which add up in another order. Measured, the largest of 1, 2 and 4 ranks: bf16
# 0.00080 and 0.00018, fp16 0.00008 and 0.00001, where the last loss is 3.964.
BOUNDS = {"bf16": (0.003, 0.001), "fp16": (0.0005, 0.0001)}


class Precision(SystemTest):
    def train(self, ranks, precision, *more):
        metrics = self.folder / f"{ranks}-{precision}-{len(more)}.jsonl"
        a = SETTINGS
        self.succeed(launch(
            ranks, GPT, "--init-from", CASE, "--data", CASE / "tokens.bin", "--order", "sequential",
            "--steps", STEPS, "--global-batch", a["batch_size"], "--learning-rate", a["lr"],
            "--warmup-steps", a["warmup_steps"], "--weight-decay", a["weight_decay"],
            "--gradient-clip", a["max_norm"], "--precision", precision, "--threads", 1,
            "--metrics", metrics, *more), timeout=300)
        return events(metrics)

    def losses(self, found):
        return [event["loss"] for event in found if event["event"] == "step"]

    def compare(self, found, expected, bound, mean_bound):
        self.assertEqual(len(found), STEPS)
        largest = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        mean = abs(sum(found[-20:]) - sum(expected[-20:])) / 20
        print(f"largest difference {largest:.5f}, of the mean of the last 20 {mean:.5f}, "
              f"last loss {found[-1]:.4f} {expected[-1]:.4f}")
        self.assertLess(largest, bound)
        self.assertLess(mean, mean_bound)

    def test_16_bits_follow_f32_at_1_2_and_4_ranks(self):
        expected = self.losses(self.train(1, "f32"))
        for precision, bounds in BOUNDS.items():
            alone = None
            for ranks in (1, 2, 4):
                with self.subTest(precision=precision, ranks=ranks):
                    found = self.losses(self.train(ranks, precision))
                    self.compare(found, expected, *bounds)
                    self.assertNotEqual(found, expected)
                    alone = alone or found
                    self.compare(found, alone, *bounds)

    def test_a_loss_scale_and_f16_on_the_wire(self):
        found = self.train(2, "fp16", "--reduce-dtype", "fp16")
        expected = self.losses(self.train(1, "f32"))
        self.compare(self.losses(found), expected, *BOUNDS["fp16"])
        steps = [event for event in found if event["event"] == "step"]
        skipped = {event["step"] for event in found if event["event"] == "step_skipped"}
        self.assertLess(len(skipped), 10)
        for step, after in zip(steps, steps[1:]):
            factor = 0.5 if step["step"] in skipped else 1
            self.assertEqual(after["loss_scale"], factor * step["loss_scale"])
            self.assertEqual(step["gradient_norm"] is None, step["step"] in skipped)

    def faulty(self, precision):
        metrics = self.folder / f"{precision}.jsonl"
        result = run(mpirun(4, BUILD / "bin" / "fault_ranks", "--fault", "overflow", "--culprit", 2,
                            "--fault-step", 3, "--precision", precision, "--metrics", metrics),
                     timeout=120)
        return result, metrics

    def test_an_overflow_on_one_rank_makes_all_skip_the_step(self):
        result, metrics = self.faulty("fp16")
        self.assertEqual(result.returncode, 0, result.stderr)
        steps = events(metrics, "step")
        self.assertEqual([step["loss_scale"] for step in steps],
                         [65536, 65536, 65536, 32768, 32768])
        self.assertEqual([step["gradient_norm"] is None for step in steps],
                         [False, False, True, False, False])
        self.assertEqual(events(metrics, "step_skipped"),
                         [{"event": "step_skipped", "step": 3, "next_loss_scale": 32768}])
        # The parameters after a skipped step are those of before.
        losses = [step["loss"] for step in steps]
        self.assertEqual(losses[2], losses[3])
        self.assertEqual(len(set(losses)), 4)

    def test_without_a_loss_scale_it_ends_the_run(self):
        for precision in ("f32", "bf16"):
            with self.subTest(precision=precision):
                result, _ = self.faulty(precision)
                self.assertEqual(result.returncode, 1)
                self.assertIn("step 3: the norm of the gradients is not finite", result.stderr)

    def test_what_the_machine_computes_in_f32_is_said_once(self):
        result = self.succeed(mpirun(2, GPT, "--init-from", CASE, "--data", CASE / "tokens.bin",
                                     "--steps", 2, "--global-batch", 8, "--threads", 1,
                                     "--precision", "fp16"))
        self.assertEqual(result.stdout.count("fp16 products are computed in f32"), 1)


if __name__ == "__main__":
    main()
