"""gpt on the device: PyTorch's recorded training, resuming across devices, errors."""

import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
from programs import DATA, ENVIRONMENT, GPT, SOURCE, SystemTest, events, losses, main, run  # noqa: E402

CASE = DATA / "gpt2_tiny"
EXPECTED = json.loads((CASE / "expected.json").read_text())
SMALL = ["--layers", 2, "--heads", 2, "--width", 16, "--context", 16, "--threads", 1]


class Training(SystemTest):
    def command(self, device, steps, *more):
        return [GPT, "--device", device, "--data", self.text(), *SMALL, "--schedule", "constant",
                "--global-batch", 4, "--micro-batch", 2, "--steps", steps, *more]

    def recorded(self, precision):
        a = EXPECTED["attributes"]
        metrics = self.folder / f"{precision}.jsonl"
        self.succeed([
            GPT, "--device", "cuda", "--init-from", CASE, "--data", CASE / "tokens.bin",
            "--order", "sequential", "--steps", a["steps"], "--global-batch", a["batch_size"],
            "--micro-batch", 4, "--learning-rate", a["lr"], "--beta1", a["betas"][0],
            "--beta2", a["betas"][1], "--epsilon", a["eps"], "--weight-decay", a["weight_decay"],
            "--gradient-clip", a["max_norm"], "--schedule", "cosine",
            "--warmup-steps", a["warmup_steps"], "--minimum-learning-rate", a["min_lr"],
            "--precision", precision, "--metrics", metrics], timeout=300)
        return events(metrics, "step")

    def compare(self, steps, kind, loss_bound, norm_bound):
        expected = EXPECTED[kind]
        self.assertEqual(len(steps), len(expected["loss"]))
        for step, loss, norm in zip(steps, expected["loss"], expected["grad_norm"]):
            with self.subTest(step=step["step"]):
                self.assertLessEqual(abs(step["loss"] - loss), loss_bound * max(1, abs(loss)))
                self.assertLessEqual(abs(step["gradient_norm"] - norm), norm_bound * norm)

    def test_recorded_in_float32(self):
        self.compare(self.recorded("f32"), "float32", 2e-5, 1e-3)

    def test_recorded_in_float64(self):
        tolerance = EXPECTED["tolerance"]["float64"]
        self.compare(self.recorded("f64"), "float64", tolerance["loss"], tolerance["grad_norm"])

    def test_recorded_in_16_bits(self):
        for precision in ("bf16", "fp16"):
            with self.subTest(precision=precision):
                self.compare(self.recorded(precision), "float32", 0.02, 0.2)

    def test_a_run_goes_on_from_one_device_to_the_other_and_back(self):
        for more in ([], ["--shard", "parameters"], ["--optimizer", "lamb"]):
            with self.subTest(more=more):
                folder = self.folder / "-".join(["run", *more[1:]])
                whole = self.folder / f"{folder.name}.jsonl"
                self.succeed(self.command("cpu", 9, "--metrics", whole, *more))
                for steps, device in ((3, "cpu"), (6, "cuda"), (9, "cpu")):
                    self.succeed(self.command(device, steps, "--run-dir", folder, *more))
                found, expected = losses(folder / "metrics.jsonl"), losses(whole)
                self.assertEqual(found.keys(), expected.keys())
                for step, loss in expected.items():
                    self.assertAlmostEqual(found[step], loss, delta=1e-5, msg=step)

    def test_the_trace_shows_what_the_device_did(self):
        for mode, passes in (("off", {"forward", "backward"}), ("on", {"replay"})):
            with self.subTest(mode=mode):
                trace, metrics = self.folder / "trace.json", self.folder / f"trace-{mode}.jsonl"
                self.succeed(self.command("cuda", 6, "--cuda-graph", mode, "--trace", trace,
                                          "--metrics", metrics))
                spans = [e for e in json.loads(trace.read_text())["traceEvents"]
                         if e.get("cat") == "device"]
                for step in range(4, 7):
                    own = [e for e in spans if e["args"]["step"] == step]
                    self.assertEqual({e["name"] for e in own}, passes | {"optimizer"})
                    for before, after in zip(own, own[1:]):
                        self.assertLessEqual(before["ts"] + before["dur"], after["ts"] + 1)
                for step in events(metrics, "step")[3:]:
                    self.assertGreater(step["time"]["backward"], 0)
                    self.assertGreater(step["time"]["optimizer"], 0)
                self.succeed([sys.executable, SOURCE / "examples" / "plot-step", trace, "--step", 4,
                              "--output", self.folder / "step.svg"])
                self.assertIn("rank 0 device", (self.folder / "step.svg").read_text())

    def test_graphs_do_what_the_host_would(self):
        for precision in ("f32", "bf16", "fp16"):
            with self.subTest(precision=precision):
                steps = {}
                for mode in ("off", "auto", "on"):
                    metrics = self.folder / f"{precision}-{mode}.jsonl"
                    self.succeed(self.command("cuda", 8, "--precision", precision, "--cuda-graph",
                                              mode, "--validation-fraction", 0.2,
                                              "--validation-every", 3, "--metrics", metrics))
                    steps[mode] = events(metrics, "step")
                    replayed = [step["time"]["forward"] == 0 for step in steps[mode]]
                    self.assertEqual(replayed[-1], mode != "off")
                    self.assertFalse(replayed[0])
                for mode in ("auto", "on"):
                    for key in ("loss", "gradient_norm"):
                        self.assertEqual([step[key] for step in steps[mode]],
                                         [step[key] for step in steps["off"]])

    def test_graphs_that_cannot_be(self):
        for device, more, reason in (("cpu", [], "only a CUDA device captures passes"),
                                     ("cuda", ["--shard", "optimizer"], "the ranks communicate")):
            result = run(self.command(device, 1, "--cuda-graph", "on", *more))
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertRegex(result.stderr, f"^gpt: --cuda-graph on: {reason}.*\n$")

    def test_what_runs_where_is_told(self):
        folder = self.folder / "run"
        self.succeed(self.command("cuda", 1, "--run-dir", folder, "--sample", 3,
                                  "--validation-fraction", 0.1, "--validation-every", 1,
                                  "--export", self.folder / "exported"))
        config = json.loads((folder / "config.json").read_text())
        start, = events(folder / "metrics.jsonl", "start")
        for told in (config, start):
            self.assertEqual(told["device"], "cuda:0")
            self.assertRegex(told["device_description"], "compute capability")
        step, = events(folder / "metrics.jsonl", "step")
        self.assertGreater(step["memory_bytes"], 0)
        self.succeed(self.command("cpu", 0, "--init-from", self.folder / "exported", "--sample", 3,
                                  "--prompt", "a"))

    def test_running_out_of_memory_names_the_op_and_who_holds_the_rest(self):
        result = run(self.command("cuda", 2, "--context", 64, "--width", 64, "--global-batch", 32,
                                  "--micro-batch", 32, "--memory-limit", "12MiB"))
        self.assertEqual(result.returncode, 1, result.stderr)
        last = result.stderr.strip().splitlines()[-1]
        self.assertRegex(last, r"out of memory on cuda:0: [a-z_]+( backward)? asked for .* in use, "
                               r".*the limit is 12 MiB; held by [a-z_]+ [0-9.]+ MiB in .*; "
                               "a smaller --micro-batch needs less")

    def test_memory_is_reserved(self):
        metrics = self.folder / "metrics.jsonl"
        plain = self.folder / "plain.jsonl"
        self.succeed(self.command("cuda", 3, "--metrics", plain))
        self.succeed(self.command("cuda", 3, "--metrics", metrics, "--memory-reserve", "64MiB",
                                  "--memory-limit", "64MiB"))
        self.assertEqual(losses(metrics), losses(plain))

    def test_memory_that_cannot_be_reserved(self):
        for more, code, said in (
                (["--memory-reserve", "1024GiB"], 1,
                 "--memory-reserve 1024GiB: out of memory on cuda:0: 1024 GiB asked for, 0 bytes in use, "
                 "0 bytes cached, the device has no more; held by nobody"),
                (["--memory-reserve", "64MiB", "--memory-limit", "63MiB"], 2,
                 "--memory-reserve 64MiB is above --memory-limit 63MiB"),
                (["--memory-reserve", "much"], 2,
                 "--memory-reserve much: expected a size such as 512M or 2GiB")):
            with self.subTest(more=more):
                result = run(self.command("cuda", 1, *more))
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertEqual(result.stderr, f"gpt: {said}\n")

    def test_no_device(self):
        result = run(self.command("cuda", 1), env={**ENVIRONMENT, "LOCKSTEP_PLUGIN_DIR": "/missing"})
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertRegex(result.stderr, r"^gpt: --device cuda: .*/missing/liblockstep_cuda.so.*\n$")
        result = run(self.command("auto", 1, "--quiet"),
                     env={**ENVIRONMENT, "LOCKSTEP_LOG_LEVEL": "info", "LOCKSTEP_PLUGIN_DIR": "/missing"})
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr, "(?m)^lockstep: --device auto: the CPU, ")


if __name__ == "__main__":
    main()
