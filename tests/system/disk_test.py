"""A full or read-only disk: one line, exit 1 on every rank, and the last checkpoint as it was."""
# needs: mount

from programs import GPT, LOCKSTEP, SystemTest, main


class Disk(SystemTest):
    def command(self, run_dir, steps):
        return [GPT, "--layers", 1, "--heads", 2, "--width", 16, "--context", 16, "--threads", 1,
                "--data", self.text(), "--steps", steps, "--global-batch", 8, "--run-dir", run_dir,
                "--checkpoint-every", 2]

    def test_full_and_read_only_disks(self):
        folder = self.folder / "disk"
        folder.mkdir()
        self.succeed(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder])
        self.addCleanup(lambda: self.succeed(["umount", folder]))
        run_dir = folder / "run"
        self.succeed(self.command(run_dir, 2))
        hash_command = [LOCKSTEP, "checkpoint", "hash", run_dir / "checkpoints"]
        before = self.succeed(hash_command).stdout
        (folder / "filler").write_bytes(b"x" * 60000)
        self.refused(self.command(run_dir, 4), "full", code=1)
        self.assertEqual(self.succeed(hash_command).stdout, before)
        self.refused([*self.command(run_dir, 8), "--checkpoint-async"], "full", code=1)
        self.assertEqual(self.succeed(hash_command).stdout, before)
        (folder / "filler").unlink()
        self.succeed(["mount", "-o", "remount,ro", folder])
        self.refused(self.command(run_dir, 4), "read-only", code=1)
        self.assertEqual(self.succeed(hash_command).stdout, before)


if __name__ == "__main__":
    main()
