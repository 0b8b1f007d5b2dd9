"""--checkpoint-async: the same checkpoints, whatever happens while they are written."""

import signal
import subprocess
import time

from programs import ENVIRONMENT, GPT, LOCKSTEP, SystemTest, events, launch, losses, main, mpirun

# 3 million parameters, 38 MB of state: they take a while to write.
LARGE = ["--layers", 4, "--heads", 4, "--width", 256, "--context", 8, "--threads", 1]


class CheckpointAsync(SystemTest):
    def setUp(self):
        super().setUp()
        self.data = self.text()

    def command(self, run_dir, steps, every, *more):
        return [GPT, "--data", self.data, *LARGE, "--steps", steps, "--global-batch", 2,
                "--schedule", "constant", "--run-dir", run_dir, "--checkpoint-every", every,
                "--keep", 100, *more]

    def checkpoint(self, action, *paths):
        return self.succeed([LOCKSTEP, "checkpoint", action, *paths]).stdout

    def names(self, run_dir):
        return sorted(path.name for path in (run_dir / "checkpoints").iterdir())

    def holds_part_of_a_file(self, folder):
        try:
            return any(path.suffix == ".tmp" for path in folder.iterdir())
        except FileNotFoundError:
            return False  # it has become the checkpoint

    def interrupt(self, command, run_dir, number):
        """Sends the signal while a checkpoint is being written. Returns its directory and the exit code."""
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.communicate()))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            for partial in (run_dir / "checkpoints").glob(".step-*.partial"):
                # Not the first: that there is an earlier one matters.
                if "step-00000003" in partial.name or not self.holds_part_of_a_file(partial):
                    continue
                process.send_signal(number)
                process.communicate(timeout=60)
                return partial.name[1:-len(".partial")], process.returncode
        self.fail("no checkpoint was seen being written")

    def test_two_ranks_write_the_same_and_go_on_alike(self):
        for launcher in (mpirun(2), [LOCKSTEP, "run", "-n", 2, "--"]):
            name = str(launcher[0]).split("/")[-1]
            runs = {kind: self.folder / f"{kind}-{name}" for kind in ("sync", "async")}
            for kind, run_dir in runs.items():
                more = ["--checkpoint-async"] if kind == "async" else []
                self.succeed([*launcher, *self.command(run_dir, 10, 3, *more)])
            self.assertEqual(losses(runs["async"] / "metrics.jsonl"),
                             losses(runs["sync"] / "metrics.jsonl"))
            steps = [f"step-{step:08}" for step in (3, 6, 9, 10)]
            for run_dir in runs.values():
                self.assertEqual(self.names(run_dir), steps)
                self.assertEqual([event["step"] for event in
                                  events(run_dir / "metrics.jsonl", "checkpoint")], [3, 6, 9, 10])
            for step in steps:
                pair = [runs[kind] / "checkpoints" / step for kind in ("sync", "async")]
                self.checkpoint("diff", *pair)
                self.assertEqual(*(self.checkpoint("hash", path) for path in pair))
            for kind, run_dir in runs.items():
                resumed = self.folder / f"resumed-{kind}-{name}"
                self.succeed([*launcher, *self.command(resumed, 10, 3, "--resume",
                                                       run_dir / "checkpoints" / steps[1])])
                expected = losses(runs["sync"] / "metrics.jsonl")
                self.assertEqual(losses(resumed / "metrics.jsonl"),
                                 {step: expected[step] for step in range(7, 11)})

    def test_a_stop_request_has_a_checkpoint_of_its_own(self):
        for ranks, number in ((1, signal.SIGTERM), (2, signal.SIGUSR1)):
            with self.subTest(ranks=ranks):
                run_dir = self.folder / f"stopped-{ranks}"
                command = launch(ranks, *self.command(run_dir, 1000, 3, "--checkpoint-async"))
                written, code = self.interrupt(command, run_dir, number)
                self.assertEqual(code, 75)
                stopped = events(run_dir / "metrics.jsonl", "preempted")[-1]["step"]
                self.assertLess(written, f"step-{stopped + 1:08}")
                self.assertEqual(self.names(run_dir)[-1], f"step-{stopped:08}")
                self.checkpoint("verify", run_dir / "checkpoints")
                expected = self.folder / f"undisturbed-{ranks}"
                self.succeed(launch(ranks, *self.command(expected, stopped + 2, 1000)))
                self.succeed(launch(ranks, *self.command(run_dir, stopped + 2, 1000)))
                self.assertEqual(losses(run_dir / "metrics.jsonl"),
                                 losses(expected / "metrics.jsonl"))

    def test_a_killed_run_has_the_checkpoint_before(self):
        run_dir = self.folder / "killed"
        command = self.command(run_dir, 1000, 3, "--checkpoint-async")
        written, code = self.interrupt(command, run_dir, signal.SIGKILL)
        self.assertEqual(code, -signal.SIGKILL)
        self.checkpoint("verify", run_dir / "checkpoints")
        before = int(self.names(run_dir)[-1].removeprefix("step-"))
        self.assertGreaterEqual(before, int(written.removeprefix("step-")) - 3)
        steps = before + 4
        self.succeed(self.command(run_dir, steps, 3, "--checkpoint-async"))
        self.assertEqual(events(run_dir / "metrics.jsonl", "resume")[-1]["step"], before)
        self.assertFalse([name for name in self.names(run_dir) if name.startswith(".")])
        self.succeed(self.command(self.folder / "undisturbed", steps, 1000))
        found = losses(run_dir / "metrics.jsonl")
        for step, loss in losses(self.folder / "undisturbed" / "metrics.jsonl").items():
            self.assertEqual(found[step], loss, step)

    def test_without_memory_for_the_copy_it_is_written_at_once(self):
        run_dir = self.folder / "short"
        command = self.command(run_dir, 6, 3, "--checkpoint-async", "--memory-limit", "70MiB")
        said = self.succeed(command).stderr
        self.assertIn("a checkpoint is written at once, in spite of --checkpoint-async: ", said)
        self.assertEqual(self.names(run_dir), ["step-00000003", "step-00000006"])
        self.checkpoint("verify", run_dir / "checkpoints")

    def test_memory_that_steps_need_is_not_taken_for_the_copy(self):
        more = ["--layers", 1, "--width", 64, "--context", 128, "--global-batch", 8]
        self.succeed(self.command(self.folder / "at-once", 6, 3, *more))
        most = max(step["memory_bytes"]
                   for step in events(self.folder / "at-once" / "metrics.jsonl", "step"))
        run_dir = self.folder / "tight"
        said = self.succeed(self.command(run_dir, 6, 3, *more, "--checkpoint-async",
                                         "--memory-limit", most + 65536)).stderr
        self.assertIn("the copy that a checkpoint is written from", said)
        self.assertEqual(self.names(run_dir), ["step-00000003", "step-00000006"])

    def test_it_is_refused_where_it_would_do_nothing(self):
        self.refused([GPT, "--data", self.data, *LARGE, "--steps", 1, "--global-batch", 2,
                      "--run-dir", self.folder / "run", "--checkpoint-async"],
                     "--checkpoint-async needs --checkpoint-every", ranks=(1,))


if __name__ == "__main__":
    main()
