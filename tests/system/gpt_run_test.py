"""A run's life: launchers, stopping, killing, resuming, what lies in its directory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest

from programs import (ENVIRONMENT, GPT, LOCKSTEP, SOURCE, SystemTest, events, launch, losses, main,
                      mpirun, run)

SMALL = ["--layers", 1, "--heads", 2, "--width", 16, "--context", 16, "--threads", 1]


class GptRun(SystemTest):
    def setUp(self):
        super().setUp()
        self.data = self.text()
        self.run_dir = self.folder / "run"

    def command(self, steps=30, batch=8, *more, run_dir=None):
        return [GPT, "--data", self.data, *SMALL, "--steps", steps, "--global-batch", batch,
                "--run-dir", run_dir or self.run_dir, *more]

    def start(self, command):
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.communicate()))
        return process

    def test_the_environment_sets_defaults(self):
        def timeout(*flags, **variables):
            path = self.folder / f"run-{len(list(self.folder.iterdir()))}"
            job = self.succeed(launch(2, *self.command(1, run_dir=path), *flags),
                               env={**ENVIRONMENT, **variables})
            config = json.loads((path / "config.json").read_text())
            return config["trainer"]["timeout_seconds"], job.stderr
        seconds, remarks = timeout()
        self.assertEqual((seconds, remarks), (600, ""))
        self.assertEqual(timeout(LOCKSTEP_TIMEOUT="90s")[0], 90)
        self.assertEqual(timeout("--timeout", "2m", LOCKSTEP_TIMEOUT="90s")[0], 120)
        _, remarks = timeout(LOCKSTEP_LOG_LEVEL="info")
        for said in (r"rank 0 of 2 \(OMPI_COMM_WORLD_RANK\), ", r"rank 1 of 2 \(",
                     r"the ranks meet at 127\.0\.0\.1:\d+, which rank 0 hosts"):
            self.assertRegex(remarks, f"(?m)^lockstep: {said}")
        _, remarks = timeout(LOCKSTEP_LOG_LEVEL="debug")
        self.assertRegex(remarks, r"(?m)^lockstep: \d+ gradients of \d+ parameters lie in 1 buckets")

    def wait_for_step(self, step, path=None):
        path = path or self.run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists() and re.search(rf'"step","step":{step},', path.read_text()):
                return
            time.sleep(0.01)
        self.fail(f"step {step} did not come")

    def undisturbed(self, steps, *more):
        folder = self.folder / "undisturbed"
        self.succeed(self.command(steps, 8, *more, run_dir=folder))
        return losses(folder / "metrics.jsonl")

    def test_every_launcher_gives_the_same_losses(self):
        all_losses = []
        for i, prefix in enumerate([[], mpirun(2), [LOCKSTEP, "run", "-n", 2, "--"]]):
            folder = self.folder / str(i)
            self.succeed([*prefix, *self.command(10, 8, "--precision", "f64", run_dir=folder)])
            all_losses.append(losses(folder / "metrics.jsonl"))
        for other in all_losses[1:]:
            self.assertEqual(other.keys(), all_losses[0].keys())
            for step in other:
                self.assertAlmostEqual(other[step], all_losses[0][step], delta=1e-12)

    def test_what_lies_in_the_run_directory(self):
        self.succeed(mpirun(2, *self.command(10, 8, "--validation-fraction", 0.1,
                                             "--validation-every", 5, "--checkpoint-every", 4,
                                             "--keep", 2)))
        self.assertEqual(sorted(p.name for p in self.run_dir.iterdir() if p.name[0] != "."),
                         ["checkpoints", "config.json", "log", "metrics.jsonl"])
        self.assertEqual(sorted(p.name for p in (self.run_dir / "checkpoints").iterdir()
                                if p.name[0] != "."), ["step-00000008", "step-00000010"])
        self.assertEqual(sorted(p.name for p in (self.run_dir / "log").iterdir()),
                         ["rank-0.log", "rank-1.log"])
        config = json.loads((self.run_dir / "config.json").read_text())
        self.assertEqual((config["world_size"], config["trainer"]["steps"]), (2, 10))
        kinds = [e["event"] for e in events(self.run_dir / "metrics.jsonl")]
        self.assertEqual(kinds.count("step"), 10)
        self.assertEqual(kinds.count("validation"), 2)
        self.assertEqual(kinds.count("checkpoint"), 3)
        self.assertEqual((kinds[0], kinds[-1]), ("start", "finish"))
        # What is trained is saved first: a validation may take long.
        self.assertEqual(kinds[-3:], ["checkpoint", "validation", "finish"])
        for event in events(self.run_dir / "metrics.jsonl", "step"):
            self.assertGreater(event["tokens_per_second"], 0)
            self.assertEqual(set(event["time"]), {"data", "forward", "backward",
                                                  "exposed_communication", "optimizer",
                                                  "checkpoint"})
        self.succeed([LOCKSTEP, "checkpoint", "verify", self.run_dir / "checkpoints"])

    def test_a_stop_request_saves_and_exits_75_and_resuming_goes_on(self):
        expected = self.undisturbed(4000)
        for ranks, number in ((1, signal.SIGTERM), (2, signal.SIGUSR1)):
            with self.subTest(ranks=ranks):
                folder = self.folder / f"stopped-{ranks}"
                process = self.start(launch(ranks, *self.command(4000, run_dir=folder)))
                self.wait_for_step(5, folder / "metrics.jsonl")
                process.send_signal(number)
                _, error = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 75, error)
                stopped = events(folder / "metrics.jsonl", "preempted")[-1]["step"]
                self.assertLess(stopped, 4000)
                self.succeed(launch(ranks, *self.command(4000, run_dir=folder)))
                self.assertEqual(events(folder / "metrics.jsonl", "resume")[-1]["step"], stopped)
                self.same(losses(folder / "metrics.jsonl"), expected, ranks)

    def test_lockstep_run_turns_sigterm_into_a_clean_stop(self):
        process = self.start([LOCKSTEP, "run", "-n", 2, "--", *self.command(20000)])
        self.wait_for_step(3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75)

    def test_a_killed_run_resumes_to_the_same_losses_at_another_world_size(self):
        expected = self.undisturbed(3000)
        process = self.start(self.command(3000, 8, "--checkpoint-every", 10))
        self.wait_for_step(25)
        process.kill()
        process.communicate()
        self.succeed(mpirun(2, *self.command(3000, 8, "--checkpoint-every", 10)))
        self.assertGreaterEqual(events(self.run_dir / "metrics.jsonl", "resume")[-1]["step"], 20)
        self.same(losses(self.run_dir / "metrics.jsonl"), expected, 2)

    def same(self, found, expected, ranks):
        self.assertEqual(found.keys(), expected.keys())
        for step, loss in expected.items():
            # One rank repeats the arithmetic to the bit; two sum in another order.
            self.assertAlmostEqual(found[step], loss, delta=0 if ranks == 1 else 2e-4,
                                   msg=f"step {step}")

    def test_a_finished_run_says_so(self):
        self.succeed(self.command(5))
        before = (self.run_dir / "metrics.jsonl").read_text()
        again = self.succeed(self.command(5))
        self.assertIn("has finished", again.stdout)
        self.assertEqual(losses(self.run_dir / "metrics.jsonl").keys(), set(range(1, 6)))
        self.assertTrue((self.run_dir / "metrics.jsonl").read_text().startswith(before))

    def test_resume_never_starts_anew_and_loses_nothing(self):
        self.succeed(self.command(5))
        self.succeed(self.command(3, 8, "--resume", "never"))
        self.assertEqual(set(losses(self.run_dir / "metrics.jsonl")), {1, 2, 3})
        self.assertTrue((self.run_dir / "checkpoints.1" / "step-00000005").exists())
        self.assertEqual(len(losses(self.run_dir / "metrics.1.jsonl")), 5)

    def test_a_trace_that_cannot_be_written_is_told_before_the_first_step(self):
        self.succeed(self.command(3))
        before = (self.run_dir / "metrics.jsonl").read_text()
        result = run(self.command(5, 8, "--resume", "never", "--trace", self.data / "x.json"))
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(str(self.data), result.stderr)
        self.assertEqual((self.run_dir / "metrics.jsonl").read_text(), before)
        self.succeed(self.command(5, 8, "--trace", self.folder / "new" / "x.json"))
        json.loads((self.folder / "new" / "x.json").read_text())

    def test_damaged_checkpoints_are_named_and_never_passed_over_in_silence(self):
        self.succeed(self.command(6, 8, "--checkpoint-every", 3))
        checkpoints = self.run_dir / "checkpoints"
        damage = lambda step: (checkpoints / f"step-{step:08}" / "manifest.json").write_text("{")
        damage(6)
        result = self.succeed(self.command(7, 8, "--keep", 9))
        self.assertIn("passing over a damaged checkpoint", result.stderr)
        self.assertEqual(events(self.run_dir / "metrics.jsonl", "resume")[-1]["step"], 3)
        damage(3)
        damage(7)
        result = run(self.command(8))
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("--resume never", result.stderr)
        self.assertEqual(max(losses(self.run_dir / "metrics.jsonl")), 7)
        self.succeed(self.command(2, 8, "--resume", "never"))

    def test_going_on_from_an_earlier_step_sets_the_later_ones_aside(self):
        self.succeed(self.command(10, 8, "--checkpoint-every", 2))
        earlier = self.run_dir / "checkpoints" / "step-00000006"
        self.succeed(self.command(9, 8, "--resume", earlier, "--keep", 1))
        names = lambda folder: sorted(p.name for p in (self.run_dir / folder).iterdir()
                                      if p.name[0] != ".")
        self.assertEqual(names("checkpoints"), ["step-00000009"])
        self.assertEqual(names("checkpoints.1"), ["step-00000008", "step-00000010"])

    def test_a_start_that_is_refused_changes_nothing(self):
        self.succeed(self.command(5))
        files = lambda: {p: p.read_bytes() for p in self.run_dir.rglob("*") if p.is_file()}
        before = files()
        for more in (["--seed", 5], ["--layers", 2], ["--order", "sequential"],
                     ["--resume", "never", "--init-from", self.folder / "nothing"],
                     ["--resume", self.folder / "nothing"], ["--global-batch", 7, "--micro-batch", 2]):
            with self.subTest(more=more):
                result = run(self.command(10, 8, *more))
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertEqual(len(result.stderr.strip().splitlines()), 1)
                self.assertEqual(files(), before)

    def test_a_torn_line_in_the_metrics(self):
        self.succeed(self.command(5))
        path = self.run_dir / "metrics.jsonl"
        text = path.read_text()
        path.write_text(text + '{"event":"st')
        self.succeed(self.command(8))
        lines = path.read_text()[len(text):].splitlines()
        self.assertEqual(lines[0], '{"event":"st')
        self.assertEqual(json.loads(lines[1])["event"], "resume")

    def test_sampling_from_a_checkpoint(self):
        self.succeed(self.command(5, 8, "--optimizer", "sgd", "--momentum", 0.9))  # of no matter
        command = [GPT, *SMALL, "--steps", 0, "--resume", self.run_dir / "checkpoints",
                   "--prompt", "and ", "--sample", 20]
        first, second = self.succeed(command), self.succeed(command)
        self.assertTrue(first.stdout.startswith("and "))
        self.assertEqual(first.stdout, second.stdout)

    def test_two_live_runs_cannot_share_a_directory(self):
        process = self.start(self.command(100000))
        self.wait_for_step(1)
        result = run(self.command(10))
        self.assertEqual(result.returncode, 2)
        self.assertIn(str(process.pid), result.stderr)
        process.kill()
        process.communicate()

    def test_a_resumed_run_keeps_its_batch_and_seed(self):
        self.succeed(self.command(5))
        result = run(self.command(10, 4))
        self.assertEqual(result.returncode, 2)
        self.assertIn("--global-batch 8", result.stderr)

    def test_an_epoch_ends_with_what_is_left_shared_unevenly(self):
        # Windows of 16 tokens and one more: 1249 samples, the last step has one of 12.
        all_steps = []
        for ranks in (1, 3):
            metrics = self.folder / f"{ranks}.jsonl"
            self.succeed(launch(ranks, GPT, "--data", self.data, *SMALL, "--epochs", 1,
                                "--global-batch", 12, "--micro-batch", 2, "--precision", "f64",
                                "--metrics", metrics))
            all_steps.append(events(metrics, "step"))
        for one, other in zip(*all_steps, strict=True):
            self.assertAlmostEqual(one["loss"], other["loss"], delta=1e-12)
            self.assertAlmostEqual(one["gradient_norm"], other["gradient_norm"], delta=1e-10)
        counts = [round(step["samples_per_second"] * step["seconds"]) for step in all_steps[1]]
        self.assertEqual(counts, [12] * 104 + [1])

    def test_a_longer_run_takes_no_sample_twice_and_leaves_none_out(self):
        positions = []
        for epochs in (1, 2):
            self.succeed([GPT, "--data", self.data, *SMALL, "--epochs", epochs, "--global-batch", 12,
                          "--run-dir", self.run_dir])
            steps = events(self.run_dir / "metrics.jsonl", "step")
            positions.append(sum(round(s["samples_per_second"] * s["seconds"]) for s in steps))
        self.assertEqual(positions, [1249, 2 * 1249])

    def test_the_trace_shows_phases_and_collectives_of_each_rank(self):
        trace = self.folder / "trace.json"
        self.succeed(mpirun(2, GPT, "--data", self.data, *SMALL, "--steps", 5, "--global-batch", 4,
                            "--trace", trace))
        found = json.loads(trace.read_text())["traceEvents"]
        for rank in (0, 1):
            spans = [e for e in found if e["pid"] == rank and e["ph"] == "X"]
            self.assertTrue(all(e["ts"] >= 0 and e["dur"] >= 0 for e in spans))
            for step in range(1, 6):
                phases = {e["name"] for e in spans if e["args"].get("step") == step}
                self.assertLessEqual({"data", "forward", "backward", "reduction", "optimizer"}, phases)
            self.assertEqual(sum(e["name"] == "step control" for e in spans), 5)
            self.assertGreaterEqual(sum(e["name"].startswith("gradients ") for e in spans), 5)
        self.succeed([sys.executable, SOURCE / "examples" / "plot-step", trace, "--step", 3,
                      "--output", self.folder / "step.svg"])
        self.assertIn("rank 1 reduces", (self.folder / "step.svg").read_text())

    def test_bucket_sizes_are_tried_and_one_is_kept(self):
        metrics = self.folder / "metrics.jsonl"
        self.succeed(mpirun(2, *self.command(40, 8, "--bucket-mb", "auto", "--reduce-dtype", "bf16",
                                             "--metrics", metrics)))
        self.assertEqual(len(events(metrics, "bucket_size")), 1)


if __name__ == "__main__":
    main()
