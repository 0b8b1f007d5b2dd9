"""One of four ranks goes wrong: within five seconds of the deadline every other has ended with a
message that names the culprit and what it was doing, and has written down its last collectives."""
# full: --rounds 50

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest

import programs

PROGRAM = programs.BUILD / "bin" / "fault_ranks"
RANKS = 4
DEADLINE = 2.0
WITHIN = DEADLINE + 5
STEP = 3


@dataclasses.dataclass
class Fault:
    name: str
    # What each survivor says; {c} is the culprit, {at} the step and phase.
    message: str
    phase: str = "forward"
    # The ranks that must end by themselves: all but the culprit where it cannot.
    culprit_ends: bool = False
    # Where rank 0, which hosts the store, is the culprit.
    message_of_host: str = ""


GONE = r"rank {c} is in {at} for .*\. It is gone"
HOST_GONE = r"rank 0 is in {at} for .*\. It hosts the job's store and is gone or stopped"
HOOK = r"the communication hook failed on rank {c} in {at}: the hook is broken"
FAULTS = [
    Fault("kill", GONE, "forward", message_of_host=HOST_GONE),
    Fault("kill", GONE, "backward", message_of_host=HOST_GONE),
    Fault("stop", r"rank {c} is in {at} for .*\. It no longer answers", "backward",
          message_of_host=HOST_GONE),
    Fault("exit", GONE, "forward", message_of_host=HOST_GONE),
    Fault("throw", r"rank {c}: {at}: the file ends early", "data", culprit_ends=True),
    Fault("throw", r"rank {c}: {at}: the file ends early", "backward", culprit_ends=True),
    Fault("stuck", r"rank {c} is in {at} for .*\. It answers, but is late", "forward",
          culprit_ends=True),
    Fault("shape", r'rank {c} all_reduce\(sum\) of 7 f32 as #\d+ "extra", {at}.*3 of 4 ranks',
          "forward", culprit_ends=True),
    Fault("order", r'rank {c} barrier as #\d+ "extra", {at}.*3 of 4 ranks', "backward",
          culprit_ends=True),
    Fault("model", r"step 0, phase start: the ranks hold different models: .*"
                   r"rank {c} has 'hidden.weight", "start", culprit_ends=True),
    Fault("hook", HOOK, "backward", culprit_ends=True),
    Fault("hook-caught", HOOK, "backward", culprit_ends=True),
    Fault("validation", ""),
]

# Runs a program as this rank and writes down how it ended. What waits for it is out of the reach of
# mpirun, which ends the process groups of its ranks; the program is not.
RECORDER = r"""
import os, signal, sys, time
folder, rank, command = sys.argv[1], os.environ["OMPI_COMM_WORLD_RANK"], sys.argv[2:]
def write(suffix, text):
    with open(f"{folder}/{rank}.new", "w") as file:
        file.write(str(text))
    os.rename(f"{folder}/{rank}.new", f"{folder}/{rank}.{suffix}")
group = os.getpgrp()
recorder = os.fork()
if recorder == 0:
    os.setpgid(0, 0)
    program = os.fork()
    if program == 0:
        os.setpgid(0, group)
        os.dup2(os.open(f"{folder}/{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
        os.execv(command[0], command)
    write("pid", program)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    write("end", f"{status} {ended}")
    os._exit(status if status >= 0 else 128 - status)
signal.signal(signal.SIGTERM, lambda *_: None)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(recorder, 0)[1]))
"""


class Problem(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Problem(text)


def end_those_left(folder):
    """A stopped rank does not end by itself."""
    pids = {path: int(path.read_text()) for path in folder.glob("*.pid")}
    for path, pid in pids.items():
        if not path.with_suffix(".end").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(not p.with_suffix(".end").exists() for p in pids):
        time.sleep(0.01)


def read_end(folder, rank):
    path = folder / f"{rank}.end"
    require(path.exists(), f"rank {rank} has not ended")
    code, ended = path.read_text().split()
    return int(code), float(ended)


def check_flight(folder, rank):
    record = json.loads((folder / "run" / f"flight-rank-{rank}.json").read_text())
    require(record["rank"] == rank and record["collectives"], f"the record of rank {rank} is empty")
    trace = json.loads((folder / "run" / f"flight-rank-{rank}.trace.json").read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    require(len(spans) == len(record["collectives"]), f"the trace of rank {rank} has other events")
    for span in spans:
        numbers = [span["ts"], span["dur"], span["pid"], span["tid"]]
        require(all(isinstance(number, (int, float)) for number in numbers), str(span))
        require(span["dur"] >= 0 and span["pid"] == rank, str(span))


def expected(fault, culprit):
    pattern = fault.message_of_host if culprit == 0 and fault.message_of_host else fault.message
    return pattern.format(c=culprit, at=f"step {STEP}, phase {fault.phase}")


def check_survivor(fault, culprits, folder, rank, moment):
    code, ended = read_end(folder, rank)
    # The launcher may kill a rank that has said everything.
    require(code in (1, -signal.SIGKILL), f"rank {rank} ended with {code}, expected 1")
    text = (folder / f"{rank}.err").read_text()
    pattern = "|".join(expected(fault, culprit) for culprit in culprits)
    require(re.search(pattern, text), f"rank {rank} does not say '{pattern}':\n{text}")
    require(ended - moment <= WITHIN, f"rank {rank} ended {ended - moment:.2f} s after the fault")
    check_flight(folder, rank)
    return ended


def command(folder, ranks, *options):
    (folder / "run").mkdir()
    return programs.mpirun(ranks, sys.executable, "-S", "-c", RECORDER, folder, PROGRAM, "--timeout",
                           f"{DEADLINE}s", "--global-batch", 16, "--run-dir", folder / "run",
                           "--validation-every", 4, *options)


def run(fault, culprit, accomplice=-1, busy=-1):
    """Seconds from the fault until the last survivor had ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        try:
            job = programs.run(command(
                folder, RANKS, "--fault", fault.name, "--culprit", culprit, "--accomplice", accomplice,
                "--busy", busy, "--fault-step", STEP, "--fault-phase",
                "forward" if fault.phase == "start" else fault.phase), timeout=60)
        finally:
            end_those_left(folder)
        try:
            said = re.search(r"^fault (\S+)", job.stdout, re.MULTILINE)
            require(said, f"there was no fault:\n{job.stdout}")
            moment = float(said[1])
            if fault.name == "validation":
                require(job.returncode == 0, f"the job failed ({job.returncode})")
                return max(read_end(folder, rank)[1] for rank in range(RANKS)) - moment
            require(job.returncode != 0, "mpirun reports success")
            survivors = [r for r in range(RANKS)
                         if fault.culprit_ends or r not in (culprit, accomplice)]
            ends = [check_survivor(fault, (culprit, accomplice), folder, rank, moment)
                    for rank in survivors]
            return max(ends) - moment
        except Problem as problem:
            errors = "".join(f"rank {path.stem}: {path.read_text()}"
                             for path in sorted(folder.glob("*.err")))
            raise Problem(f"{fault.name} in {fault.phase} on rank {culprit}: {problem}\n{errors}"
                          f"mpirun ended with {job.returncode}: {job.stderr}") from None


def print_table(seconds):
    print(f"{'fault':12} {'phase':10} {'culprit':8} {'rounds':>6} {'median':>8} {'worst':>8}")
    for (name, phase, culprit), times in sorted(seconds.items()):
        print(f"{name:12} {phase:10} {culprit:8} {len(times):6} {statistics.median(times):6.2f} s "
              f"{max(times):6.2f} s")


class Faults(unittest.TestCase):
    rounds = 3
    at_once = 3

    def run_all(self, runs):
        """Several at once: (kind, arguments of run()). Their times by kind."""
        seconds, problems = collections.defaultdict(list), []
        with concurrent.futures.ThreadPoolExecutor(self.at_once) as pool:
            jobs = [(kind, pool.submit(run, *arguments)) for kind, arguments in runs]
            for kind, job in jobs:
                try:
                    taken = job.result()
                    seconds[kind].append(taken)
                except (Problem, subprocess.TimeoutExpired) as problem:
                    problems.append(str(problem))
        self.assertFalse(problems, f"{len(problems)} of {len(runs)}:\n" + "\n".join(problems))
        return seconds

    def test_every_survivor_names_the_culprit(self):
        # Rank 0 hosts the store and is the culprit in one round of three.
        runs = [((fault.name, fault.phase, "rank 0" if culprit == 0 else "another"), (fault, culprit))
                for culprit in itertools.islice(itertools.cycle((0, 2, 3)), self.rounds)
                for fault in FAULTS]
        print_table(self.run_all(runs))

    def test_two_culprits_and_a_survivor_that_computes(self):
        kill, stop = FAULTS[0], FAULTS[2]
        self.run_all([(None, arguments) for arguments in
                      ((kill, 1, 3), (stop, 1, 3), (stop, 0, 2), (kill, 0, -1, 1), (kill, 2, -1, 1))])

    def test_a_store_that_is_not_there(self):
        for address, code, message in (("nowhere", 2, "expected host:port"),
                                       ("127.0.0.1:1", 1, "no store at 127.0.0.1:1 within")):
            job = programs.run(programs.mpirun(2, PROGRAM, "--timeout", "2s"),
                               env={**programs.ENVIRONMENT, "LOCKSTEP_STORE": address})
            self.assertEqual(job.returncode, code, job.stderr)
            self.assertIn(message, job.stderr)
            self.assertEqual(len(job.stderr.strip().splitlines()), 1, job.stderr)

    def test_the_store_of_the_launcher_outlives_rank_0(self):
        for fault in (fault for fault in FAULTS if fault.name in ("kill", "stop", "exit")):
            job = programs.run([programs.LOCKSTEP, "run", "-n", RANKS, "--oversubscribe", PROGRAM,
                                "--timeout", f"{DEADLINE}s", "--global-batch", 16, "--fault",
                                fault.name, "--culprit", 0, "--fault-step", STEP, "--fault-phase",
                                fault.phase], timeout=60)
            self.assertNotEqual(job.returncode, 0)
            said = fault.message.format(c=0, at=f"step {STEP}, phase {fault.phase}")
            for rank in range(1, RANKS):
                self.assertRegex(job.stderr, rf"(?m)^\[{rank}\] .*{said}")
            self.assertNotIn("hosts the job's store", job.stderr)

    def test_a_job_that_is_slow_does_not_fail(self):
        with tempfile.TemporaryDirectory() as name:
            job = programs.run(command(pathlib.Path(name), 16, "--steps", 10, "--fault", "none"),
                               timeout=120)
            self.assertEqual(job.returncode, 0, job.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=Faults.rounds)
    parser.add_argument("--at-once", type=int, default=Faults.at_once)
    options, rest = parser.parse_known_args()
    Faults.rounds, Faults.at_once = options.rounds, options.at_once
    unittest.main(argv=[sys.argv[0], *rest])
