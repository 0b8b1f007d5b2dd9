"""gpt reproduces PyTorch's recorded training at every step, however many ranks and micro-batches."""
# labels: asan

import json
import re
import unittest

from programs import DATA, GPT, LOCKSTEP, SystemTest, events, launch, main, run

CASE = DATA / "gpt2_tiny"
EXPECTED = json.loads((CASE / "expected.json").read_text())


class RecordedTraining(SystemTest):
    def train(self, ranks, precision, micro_batch, *more):
        metrics = self.folder / f"{ranks}-{precision}-{micro_batch}.jsonl"
        a = EXPECTED["attributes"]
        self.succeed(launch(
            ranks, GPT, "--init-from", CASE, "--data", CASE / "tokens.bin", "--order", "sequential",
            "--steps", a["steps"], "--global-batch", a["batch_size"], "--micro-batch", micro_batch,
            "--learning-rate", a["lr"], "--beta1", a["betas"][0], "--beta2", a["betas"][1],
            "--epsilon", a["eps"], "--weight-decay", a["weight_decay"],
            "--gradient-clip", a["max_norm"], "--schedule", "cosine",
            "--warmup-steps", a["warmup_steps"], "--minimum-learning-rate", a["min_lr"],
            "--precision", precision, "--threads", 1, "--metrics", metrics, *more), timeout=300)
        return events(metrics, "step")

    def compare(self, steps, kind, loss_bound, norm_bound):
        expected = EXPECTED[kind]
        self.assertEqual(len(steps), len(expected["loss"]))
        for step, loss, norm, rate in zip(steps, expected["loss"], expected["grad_norm"],
                                          EXPECTED["learning_rate"]):
            with self.subTest(step=step["step"]):
                self.assertLessEqual(abs(step["loss"] - loss), loss_bound * max(1, abs(loss)))
                self.assertLessEqual(abs(step["gradient_norm"] - norm), norm_bound * norm)
                self.assertAlmostEqual(step["learning_rate"], rate, delta=1e-15)

    def test_float32(self):
        for ranks in (1, 2, 4):
            for micro_batch in (8 // ranks, 4 // ranks):
                with self.subTest(ranks=ranks, micro_batch=micro_batch):
                    self.compare(self.train(ranks, "f32", micro_batch), "float32", 2e-5, 1e-3)

    def test_float64(self):
        tolerance = EXPECTED["tolerance"]["float64"]
        for ranks in (1, 2, 4):
            for micro_batch in (8 // ranks, 4 // ranks):
                with self.subTest(ranks=ranks, micro_batch=micro_batch):
                    self.compare(self.train(ranks, "f64", micro_batch), "float64",
                                 tolerance["loss"], tolerance["grad_norm"])

    def test_parameters_in_double_do_not_depend_on_ranks_or_micro_batches(self):
        folders = []
        for ranks, micro_batch in ((1, 8), (1, 4), (2, 4), (2, 2), (4, 2), (4, 1)):
            folders.append(self.folder / f"{ranks}-{micro_batch}")
            self.train(ranks, "f64", micro_batch, "--run-dir", folders[-1])
        for folder in folders[1:]:
            result = run([LOCKSTEP, "checkpoint", "diff", folders[0] / "checkpoints",
                          folder / "checkpoints"])
            for line in result.stdout.splitlines():
                found = re.search(r"largest difference ([-+0-9.e]+)", line)
                self.assertTrue(found, line)
                self.assertLess(float(found[1]), 1e-10, f"{folder}: {line}")

    def test_final_weights_and_logits_through_export(self):
        exported = self.folder / "exported"
        self.train(2, "f32", 4, "--export", exported)
        found = read_safetensors(exported / "model.safetensors")
        expected = read_safetensors(CASE / "final.safetensors")
        self.assertEqual(found.keys(), expected.keys())
        width = json.loads((CASE / "config.json").read_text())["n_embd"]
        for name, values in expected.items():
            for i, value in enumerate(values):
                # The keys' bias has no gradient but rounding, which Adam magnifies.
                if name.endswith("attn.c_attn.bias") and width <= i < 2 * width:
                    continue
                self.assertAlmostEqual(found[name][i], value, delta=2e-4, msg=f"{name}[{i}]")
        self.succeed([GPT, "--steps", 0, "--init-from", exported, "--prompt", "a", "--sample", 4])


def read_safetensors(path):
    import array
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = array.array("f", data[8 + length + begin:8 + length + end])
    return tensors


if __name__ == "__main__":
    main()
