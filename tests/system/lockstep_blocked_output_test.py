"""`lockstep run` whose output nobody reads: it hears requests, and holds its deadlines."""

import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

from programs import LOCKSTEP, SystemTest

# Talks all the time. Asked to stop, it says so in a file, and goes on: MODE "save" ends after a
# moment in which it talks more than anybody keeps.
CHATTY = """
import os, pathlib, signal, sys, time
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
def asked(*_):
    (folder / f"asked-{rank}").touch()
    if mode != "save": return
    for _ in range(400): os.write(1, block)
    (folder / f"saved-{rank}").touch()
    os._exit(75)
block = (b"x" * 99 + b"\\n") * 655
signal.signal(signal.SIGUSR1, asked)
(folder / f"ready-{rank}").write_text(str(os.getpid()))
while True: os.write(1, block)
"""

# Numbered lines, of lengths that fit nothing.
NUMBERED = """
import os, sys
rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
for i in range(30000):
    stream = sys.stdout if i % 3 else sys.stderr
    stream.write(f"{i} " + "y" * (i * 37 % 180) + " end\\n")
"""


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("nothing happened")
        time.sleep(0.01)


def alive(pid):
    return pathlib.Path(f"/proc/{pid}").exists()


class BlockedOutput(SystemTest):
    def start(self, ranks, mode, *options, both=False, end=None):
        """A job whose stdout (and stderr, if both) nobody reads, once that is full."""
        for left in self.folder.glob("*-[0-9]"):
            left.unlink()
        end = end if end is not None else self.fifo()
        job = subprocess.Popen([LOCKSTEP, "run", "-n", str(ranks), "--oversubscribe", *options,
                                "--", sys.executable, "-c", CHATTY, str(self.folder), mode],
                               stdout=end, text=True,
                               stderr=end if both else subprocess.PIPE)
        self.addCleanup(lambda: (job.poll() is None and job.kill(), job.communicate()))
        wait_until(lambda: all(self.path("ready", rank).exists() for rank in range(ranks)))
        self.pids = [int(self.path("ready", rank).read_text() or 0) for rank in range(ranks)]
        time.sleep(1)
        return job

    def fifo(self):
        fifo = self.folder / "fifo"
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
        end = os.open(fifo, os.O_RDWR)
        self.addCleanup(os.close, end)
        return end

    def path(self, what, rank):
        return self.folder / f"{what}-{rank}"

    def test_a_request_is_passed_on_and_its_answer_heard(self):
        for ranks in (1, 2):
            for both in (False, True):
                with self.subTest(ranks=ranks, both=both):
                    job = self.start(ranks, "save", both=both)
                    begin = time.monotonic()
                    job.send_signal(signal.SIGTERM)
                    self.assertEqual(job.wait(timeout=20), 75)
                    self.assertLess(time.monotonic() - begin, 15)
                    self.assertTrue(all(self.path("saved", rank).exists() for rank in range(ranks)))
                    if both:
                        continue
                    errors = job.stderr.read()
                    dropped = re.search(r"nobody read (\d+) bytes of output: dropped", errors)
                    self.assertTrue(dropped, errors)
                    self.assertGreater(int(dropped[1]), 20_000_000)

    def test_the_grace_time_ends(self):
        for both in (False, True):
            job = self.start(2, "stay", "--grace", "4s", both=both)
            job.send_signal(signal.SIGTERM)
            wait_until(lambda: all(self.path("asked", rank).exists() for rank in (0, 1)))
            self.assertEqual(job.wait(timeout=20), 128 + signal.SIGKILL)
            self.assertFalse(any(map(alive, self.pids)))
            if not both:
                self.assertIn("did not stop in time: killed", job.stderr.read())

    def test_a_second_request_kills(self):
        job = self.start(2, "stay")
        job.send_signal(signal.SIGTERM)
        wait_until(lambda: all(self.path("asked", rank).exists() for rank in (0, 1)))
        job.send_signal(signal.SIGINT)
        self.assertEqual(job.wait(timeout=20), 128 + signal.SIGINT)
        self.assertFalse(any(map(alive, self.pids)))

    def test_terminals_and_sockets(self):
        reader, terminal = pty.openpty()
        for end in (reader, terminal):
            self.addCleanup(os.close, end)
        one, other = socket.socketpair()
        for end in (one, other):
            self.addCleanup(end.close)
        for end in (terminal, one.fileno()):
            job = self.start(1, "save", both=True, end=end)
            job.send_signal(signal.SIGTERM)
            self.assertEqual(job.wait(timeout=20), 75)

    def test_ranks_wait_for_who_reads_and_memory_does_not_grow(self):
        job = self.start(1, "stay")
        status = pathlib.Path(f"/proc/{job.pid}/status").read_text()
        self.assertLess(int(re.search(r"VmRSS:\s+(\d+)", status)[1]), 64 * 1024)
        job.send_signal(signal.SIGTERM)
        wait_until(lambda: self.path("asked", 0).exists())
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=20)

    def test_lines_stay_whole_and_in_order_for_one_who_reads_late(self):
        for together in (False, True):
            with self.subTest(together=together):
                job = subprocess.Popen([LOCKSTEP, "run", "-n", "2", "--oversubscribe", "--",
                                        sys.executable, "-c", NUMBERED],
                                       stdout=subprocess.PIPE, text=True,
                                       stderr=subprocess.STDOUT if together
                                       else subprocess.DEVNULL)
                self.addCleanup(lambda job=job: job.poll() is None and job.kill())
                time.sleep(1.5)
                lines = job.stdout.read().splitlines()
                job.stdout.close()
                self.assertEqual(job.wait(timeout=20), 0)
                for rank in (0, 1):
                    for third in (0, 1) if together else (1,):
                        expected = [f"[{rank}] {i} " + "y" * (i * 37 % 180) + " end"
                                    for i in range(30000) if bool(i % 3) == bool(third)]
                        found = [line for line in lines if line.startswith(f"[{rank}] ")
                                 and bool(int(line.split()[1]) % 3) == bool(third)]
                        self.assertEqual(found, expected)

    def test_a_request_ends_the_wait_for_one_who_reads_when_the_job_is_over(self):
        end, other = os.pipe()
        self.addCleanup(os.close, end)
        job = subprocess.Popen([LOCKSTEP, "run", "-n", "1", "--", sys.executable, "-c",
                                "print('z' * 300000)"], stdout=other, stderr=subprocess.PIPE)
        os.close(other)
        time.sleep(1)
        self.assertIsNone(job.poll())
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=20)
        self.assertEqual(job.returncode, 0)
        self.assertIn(b"nobody read ", errors)


if __name__ == "__main__":
    unittest.main()
