"""Bad input: one line that says what and where, exit 1 or 2, no hang, on every rank, nothing lost."""

import os
import struct

from programs import DATA, ENVIRONMENT, GPT, LOCKSTEP, SystemTest, main, mpirun, run

SMALL = ["--layers", 1, "--heads", 2, "--width", 16, "--context", 16, "--threads", 1]


class BadInput(SystemTest):
    def setUp(self):
        super().setUp()
        self.data = self.text()

    def command(self, *more, data=None, steps=4):
        return [GPT, *SMALL, "--data", data or self.data, "--steps", steps, "--global-batch", 8,
                *more]

    def test_data(self):
        missing = self.folder / "missing.txt"
        self.refused(self.command(data=missing), missing)
        self.refused(self.command(data=self.folder), self.folder)
        for size in (0, 1):
            short = self.folder / f"{size}.txt"
            short.write_bytes(b"x" * size)
            self.refused(self.command(data=short), short)
        self.refused([GPT, *SMALL, "--steps", 2], "--data")

    def test_token_files(self):
        def tokens(name, count, stored, magic=20240520):
            path = self.folder / name
            path.write_bytes(struct.pack("<256i", magic, 1, count, *[0] * 253)
                             + struct.pack(f"<{stored}H", *[i % 300 for i in range(stored)]))
            return path
        self.refused(self.command(data=tokens("truncated.bin", 1000, 900)), "truncated.bin", 1000)
        self.refused(self.command(data=tokens("magic.bin", 1000, 1000, 7)), "magic.bin")
        self.refused(self.command(data=tokens("large.bin", 1000, 1000)), "large.bin", 256)

    def test_flags(self):
        self.refused(self.command("--learning-rte", 1), "--learning-rte", "--learning-rate",
                     ranks=(1,))
        self.refused(self.command("--schedule", "wavy"), "wavy", ranks=(1,))
        self.refused(self.command("--heads", 3), "--width 16", "--heads 3")
        self.refused(self.command("--vocabulary", 20), 20)
        self.refused(self.command("--micro-batch", 3), "--micro-batch 3")
        self.refused(self.command("--epochs", 1), "--steps", "--epochs")
        self.refused(self.command("--beta1", 1), "--beta1")
        self.refused(self.command("--validation-every", 1), "--validation-every")
        self.refused(self.command("--init-from", DATA / "gpt2_tiny"), "--layers 1")
        self.refused([GPT, *SMALL, "--data", self.data], "nothing to do")
        self.refused([GPT, *SMALL, "--data", self.data, "--epochs", "0.0001"], "--epochs")
        self.refused([GPT, *SMALL, "--sample", 3], "no weights", ranks=(1,))
        self.refused([GPT, "--init-from", DATA / "gpt2_tiny", "--vocabulary", 256, "--sample", 3,
                      "--prompt", ""], "--prompt")
        self.refused(self.command("--checkpoint-every", "soon", "--run-dir", self.folder / "r"),
                     "soon")

    def test_environment(self):
        for name, value, expected in (("LOCKSTEP_TIMEOUT", "soon", "expected a time"),
                                      ("LOCKSTEP_TIMEOUT", "-1s", "expected a time"),
                                      ("LOCKSTEP_LOG_LEVEL", "loud", "expected error, warning")):
            job = run(self.command(), env={**ENVIRONMENT, name: value})
            self.assertEqual(job.returncode, 2)
            self.assertIn(f"{name} is '{value}': {expected}", job.stderr)
            self.assertEqual(len(job.stderr.strip().splitlines()), 1, job.stderr)

    def test_batch_and_world(self):
        self.refused([*self.command()[:-1], 7], "7", "2 ranks", ranks=(2,))
        self.refused([*self.command()[:-1], 2], "2", "4 ranks", ranks=(4,))

    def test_bare_rank_variables(self):
        result = run(self.command(), env=dict(os.environ, RANK="0", WORLD_SIZE="2"))
        self.assertEqual(result.returncode, 2)
        self.assertIn("mpirun", result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1)

    def test_ranks_with_different_flags(self):
        result = run([*mpirun(1, *self.command("--seed", 1)), ":", "-n", "1",
                      *map(str, self.command("--seed", 2))], timeout=60)
        self.assertEqual(result.returncode, 2)
        self.assertIn('"seed": 1', result.stderr)
        self.assertIn('"seed": 2', result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1)

    def test_run_directory_that_is_a_file(self):
        taken = self.folder / "taken"
        taken.write_text("precious")
        self.refused(self.command("--run-dir", taken), taken, code=1)
        self.assertEqual(taken.read_text(), "precious")

    def test_a_checkpoint_with_a_flipped_byte(self):
        run_dir = self.folder / "run"
        self.succeed(self.command("--run-dir", run_dir))
        shard = next((run_dir / "checkpoints").glob("step-*/shard-*"))
        data = bytearray(shard.read_bytes())
        data[-5] ^= 1
        shard.write_bytes(data)
        self.refused(self.command("--run-dir", run_dir, steps=6), shard.name, "checksum", code=1)
        verify = run([LOCKSTEP, "checkpoint", "verify", run_dir / "checkpoints"])
        self.assertEqual(verify.returncode, 1)
        self.assertIn(shard.name, verify.stdout + verify.stderr)

    def test_weights_that_do_not_fit(self):
        zero = self.folder / "zero"
        zero.mkdir()
        text = (DATA / "gpt2_tiny" / "config.json").read_text()
        (zero / "config.json").write_text(text.replace('"n_head": 2', '"n_head": 0'))
        self.refused([GPT, "--init-from", zero, "--sample", 3], "config.json", ranks=(1,))
        broken = self.folder / "broken.safetensors"
        broken.write_bytes((DATA / "gpt2_tiny" / "model.safetensors").read_bytes()[:-100])
        plain = [GPT, "--data", self.data, "--steps", 2, "--global-batch", 4, "--init-from"]
        self.refused([*plain, broken], broken)
        nowhere = self.folder / "nowhere"
        self.refused([*plain, nowhere], nowhere)

    def test_memory_limit(self):
        self.refused(self.command("--memory-limit", "200K"), "204800", "memory", code=1)
        self.refused(self.command("--memory-limit", "much"), "--memory-limit much: expected a size")

    def test_memory_reserve(self):
        for size in ("much", "-1G", "1X"):
            self.refused(self.command("--device", "cpu", f"--memory-reserve={size}"),
                         f"--memory-reserve {size}: expected a size")
        self.refused(self.command("--device", "cpu", "--memory-reserve", "1GiB"),
                     "--memory-reserve 1GiB: only a GPU's memory is reserved")


if __name__ == "__main__":
    main()
