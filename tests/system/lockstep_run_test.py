"""`lockstep run`: output of the ranks, exit codes, requests to stop, what is left behind."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

LOCKSTEP = pathlib.Path(os.environ["BUILD_DIR"]) / "bin" / "lockstep"
RANK = "import os, signal, sys, time; rank = int(os.environ.get('OMPI_COMM_WORLD_RANK', '0')); "

# Saves for a moment when it is asked to stop, then ends with 75.
STOPPABLE = RANK + """
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("ready", flush=True)
while not asked: time.sleep(0.01)
time.sleep(0.2)
print("saved", flush=True)
sys.exit(75)
"""
# Takes no notice.
STUBBORN = RANK + """
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", os.getpid(), flush=True)
time.sleep(60)
"""


def python(code):
    return [sys.executable, "-c", code]


def run(*arguments, **options):
    return subprocess.run([LOCKSTEP, "run", *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, **options)


def start(*arguments, **options):
    return subprocess.Popen([LOCKSTEP, "run", *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def wait_for_lines(job, text, count):
    lines = []
    while sum(text in line for line in lines) < count:
        line = job.stdout.readline()
        if not line:
            raise AssertionError(f"ended early: {lines} {job.stderr.read()}")
        lines.append(line)
    return lines


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def descendants(pid):
    found = [pid]
    for parent in found:
        for tasks in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            found.extend(map(int, tasks.read_text().split()))
    return found[1:]


class Output(unittest.TestCase):
    def test_prefixes_whole_lines_and_keeps_streams_apart(self):
        code = RANK + """
for i in range(500):
    sys.stdout.write("line ")
    sys.stdout.flush()
    sys.stdout.write(str(i) + " " + "x" * 300 + "\\n")
    sys.stdout.flush()
sys.stderr.write("problem\\nlast")
"""
        job = run("-n", 2, "--", *python(code))
        self.assertEqual(job.returncode, 0, job.stderr)
        lines = job.stdout.splitlines()
        self.assertEqual(len(lines), 1000)
        for rank in (0, 1):
            expected = [f"[{rank}] line {i} " + "x" * 300 for i in range(500)]
            self.assertEqual([l for l in lines if l.startswith(f"[{rank}]")], expected)
        self.assertEqual(sorted(job.stderr.splitlines()),
                         ["[0] last", "[0] problem", "[1] last", "[1] problem"])

    def test_prefix_off_and_logs(self):
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                job = run("-n", 2, "--prefix-output", "off", "--log-dir", folder + "/log", "--",
                          *python(RANK + "print('rank', rank); print('bad', file=sys.stderr)"))
                self.assertEqual(sorted(job.stdout.splitlines()), ["rank 0", "rank 1"])
                self.assertEqual(job.stderr, "bad\nbad\n")
            for rank in (0, 1):
                log = pathlib.Path(folder, "log", f"rank-{rank}.log").read_text()
                self.assertEqual(sorted(log.splitlines()), sorted(2 * ["bad", f"rank {rank}"]))

    def test_one_rank_runs_alone(self):
        job = run("-n", 1, "--", *python(
            "import os; print(os.getppid() > 1, 'OMPI_COMM_WORLD_RANK' in os.environ)"))
        self.assertEqual(job.stdout, "[0] True False\n")
        self.assertEqual(job.stderr, "")

    def test_environment_and_arguments_arrive(self):
        value = "a b;c=d,e'\""
        code = "import os, sys; print(os.environ['LOCKSTEP_X'], sys.argv[1:])"
        for ranks in (1, 2):
            job = run("-n", ranks, "--env", "LOCKSTEP_X=" + value, *python(code), "--flag", "", "a b")
            self.assertIn(f"[0] {value} ['--flag', '', 'a b']\n", job.stdout, job.stderr)

    def test_a_reader_that_goes_away_does_not_end_the_job(self):
        with tempfile.NamedTemporaryFile() as marker:
            code = "import time\nfor i in range(200): print('x' * 1000, flush=True)\n" \
                   f"open({marker.name!r}, 'w').write('done')"
            job = start("-n", 2, "--", *python(code))
            job.stdout.readline()
            job.stdout.close()
            self.assertEqual(job.wait(30), 0)
            job.stderr.close()
            self.assertEqual(pathlib.Path(marker.name).read_text(), "done")

    def test_standard_input_reaches_the_first_rank(self):
        job = run("-n", 2, "--", *python(RANK + "print(sys.stdin.read() if rank == 0 else '')"),
                  input="hello")
        self.assertIn("[0] hello\n", job.stdout)


class ExitCodes(unittest.TestCase):
    def test_code_of_the_job(self):
        for ranks in (1, 2):
            for code in (0, 3, 75):
                job = run("-n", ranks, "--", "sh", "-c", f"exit {code}")
                self.assertEqual(job.returncode, code, job.stderr)
                self.assertEqual(job.stderr, "")

    def test_one_rank_fails(self):
        job = run("-n", 2, "--", *python(
            RANK + "print('bad', file=sys.stderr) or sys.exit(3) if rank else time.sleep(30)"))
        self.assertEqual(job.returncode, 3)
        self.assertEqual(job.stderr, "[1] bad\n")

    def test_killed_by_a_signal(self):
        for ranks in (1, 2):
            for number in (9, 11):
                job = run("-n", ranks, "--", "sh", "-c", f"kill -{number} $$")
                self.assertEqual(job.returncode, 128 + number)
                self.assertIn(f"lockstep run: the job ended by signal {number} (", job.stderr)

    def test_usage(self):
        cases = [((), "lockstep run: PROGRAM ARG... is missing"),
                 (("-n", "0", "true"), "--ranks: '0' is too small: at least 1"),
                 (("-n", "two", "true"), "--ranks: 'two' is not a whole number"),
                 (("--prefix-outputs", "on", "true"), "the nearest is --prefix-output"),
                 (("--prefix-output", "no", "true"), "'no' is none of on, off"),
                 (("--env", "=x", "true"), "--env: '=x' is not NAME=VALUE"),
                 (("-n", "2000", "--bind", "cores", "true"), "ranks cannot be bound to")]
        for arguments, message in cases:
            job = run(*arguments)
            self.assertEqual(job.returncode, 2, arguments)
            self.assertIn(message, job.stderr)
            self.assertEqual(job.stderr.count("\n"), 1, job.stderr)
            self.assertEqual(job.stdout, "")

    def test_missing_programs(self):
        with tempfile.TemporaryDirectory() as folder:
            plain = pathlib.Path(folder, "plain")
            plain.write_text("#!/bin/sh\n")
            cases = [("./no-such-program", "./no-such-program does not exist"),
                     ("no-such-program", "no-such-program is not a program on PATH"),
                     (folder, "is a directory, expected a program"),
                     (plain, "is not executable")]
            for program, message in cases:
                job = run("-n", 2, "--", program)
                self.assertEqual(job.returncode, 1)
                self.assertIn(message, job.stderr)
                self.assertEqual(job.stderr.count("\n"), 1, job.stderr)
            tool = pathlib.Path(folder, "tool")
            tool.write_text("#!/bin/sh\n")
            tool.chmod(0o755)
            self.assertIn("did you mean ./tool?", run("tool", cwd=folder).stderr)

    def test_missing_mpirun(self):
        job = run("-n", 2, "--", "/bin/true", env={"PATH": "/nowhere"})
        self.assertEqual(job.returncode, 1)
        self.assertIn("mpirun is not on PATH; install Open MPI", job.stderr)

    def test_mpirun_that_cannot_start_ranks(self):
        with tempfile.TemporaryDirectory() as folder:
            fake = pathlib.Path(folder, "mpirun")
            fake.write_text("#!/bin/sh\nexit 1\n")
            fake.chmod(0o755)
            job = run("-n", 2, "--", "/bin/true", env={"PATH": folder})
            self.assertEqual(job.returncode, 1)
            self.assertIn("mpirun could not start any rank", job.stderr)


class HelpEnvironment(unittest.TestCase):
    def test_lists_every_variable_that_a_source_reads_and_no_other(self):
        job = run("--help-environment")
        self.assertEqual(job.returncode, 0, job.stderr)
        self.assertEqual(job.stderr, "")
        listed = re.findall(r"^  (LOCKSTEP_[A-Z_]+)=\S+ +\S", job.stdout, re.MULTILINE)
        self.assertEqual(listed, sorted(set(listed)))
        root = pathlib.Path(__file__).resolve().parents[2]
        read = set()
        for layer in ("runtime", "collectives", "autograd", "nn", "launcher", "examples"):
            for path in (root / layer).rglob("*"):
                if path.suffix in (".cc", ".h") and path.name != "environment.cc":
                    read.update(re.findall(r'"(LOCKSTEP_[A-Z_]+)"', path.read_text()))
        self.assertIn("LOCKSTEP_ISA", read)
        self.assertEqual(set(listed), read)
        self.assertIn("--help-environment", run("--help").stdout)


class DryRun(unittest.TestCase):
    def test_prints_a_command_that_works(self):
        job = run("-n", 2, "--dry-run", "--env", "LOCKSTEP_X=a b", "sh", "-c", "echo $LOCKSTEP_X")
        self.assertEqual(job.returncode, 0, job.stderr)
        self.assertRegex(job.stdout, r"^env 'LOCKSTEP_X=a b' \S*mpirun -q .*-n 2 \S*sh -c "
                                     r"'echo \$LOCKSTEP_X'\n$")
        again = subprocess.run(["sh", "-c", job.stdout], capture_output=True, text=True, timeout=60)
        self.assertEqual(again.stdout, "a b\na b\n", again.stderr)

    def test_more_ranks_than_cpus_is_one_warning(self):
        many = 2 * os.cpu_count() + 1
        job = run("-n", many, "--dry-run", "true")
        self.assertIn(f"lockstep run: {many} ranks share ", job.stderr)
        self.assertEqual(job.stderr.count("\n"), 1)
        self.assertEqual(run("-n", many, "--dry-run", "--oversubscribe", "true").stderr, "")
        job = run("-n", many, "--oversubscribe", "--", *python(RANK + "print(rank)"))
        self.assertEqual(sorted(job.stdout.splitlines()),
                         sorted(f"[{rank}] {rank}" for rank in range(many)), job.stderr)

    def test_binding(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.fail("this test needs two CPUs")
        code = RANK + "print(sorted(os.sched_getaffinity(0)))"
        job = run("-n", 2, "--bind", "cores", "--", *python(code))
        self.assertEqual(job.returncode, 0, job.stderr)
        masks = re.findall(r"\[\d\] (\[.*\])", job.stdout)
        self.assertEqual(len(masks), 2)
        self.assertNotEqual(masks[0], masks[1])


class Stopping(unittest.TestCase):
    def test_each_request_reaches_the_ranks_who_save(self):
        for ranks in (1, 2):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                job = start("-n", ranks, "--", *python(STOPPABLE))
                wait_for_lines(job, "ready", ranks)
                job.send_signal(number)
                output, errors = job.communicate(timeout=30)
                self.assertEqual(job.returncode, 75, errors)
                self.assertEqual(output.count("saved"), ranks)
                self.assertIn("asked the ranks to save and stop", errors)

    def test_second_request_kills(self):
        for ranks in (1, 2):
            job = start("-n", ranks, "--", *python(STUBBORN))
            pids = [int(line.split()[-1]) for line in wait_for_lines(job, "ready", ranks)]
            job.send_signal(signal.SIGTERM)
            self.assertIn("asked", job.stderr.readline())
            begin = time.monotonic()
            job.send_signal(signal.SIGINT)
            job.communicate(timeout=30)
            self.assertLess(time.monotonic() - begin, 10)
            self.assertEqual(job.returncode, 128 + signal.SIGINT)
            self.assertFalse(any(map(alive, pids)))

    def test_grace_ends(self):
        for ranks in (1, 2):
            folder = tempfile.mkdtemp(prefix="ls")
            job = start("-n", ranks, "--grace", "500ms", "--", *python(STUBBORN),
                        env={**os.environ, "TMPDIR": folder})
            pids = [int(line.split()[-1]) for line in wait_for_lines(job, "ready", ranks)]
            begin = time.monotonic()
            job.send_signal(signal.SIGTERM)
            _, errors = job.communicate(timeout=30)
            self.assertGreater(time.monotonic() - begin, 0.4)
            self.assertEqual(job.returncode, 128 + signal.SIGKILL, errors)
            self.assertIn("did not stop in time", errors)
            self.assertFalse(any(map(alive, pids)))
            os.rmdir(folder)  # mpirun cleared its session directory away

    def test_nothing_is_left_behind(self):
        code = RANK + """
import subprocess
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print("child", child.pid, flush=True)
"""
        job = run("-n", 2, "--", *python(code))
        self.assertEqual(job.returncode, 0, job.stderr)
        children = [int(pid) for pid in re.findall(r"child (\d+)", job.stdout)]
        self.assertEqual(len(children), 2)
        deadline = time.monotonic() + 5
        while any(map(alive, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(any(map(alive, children)))

    def test_ranks_end_when_their_launcher_is_killed(self):
        job = start("-n", 2, "--", *python(RANK + "print('ready', os.getpid(), flush=True); "
                                                  "time.sleep(60)"))
        pids = [int(line.split()[-1]) for line in wait_for_lines(job, "ready", 2)]
        job.kill()
        job.communicate(timeout=30)
        deadline = time.monotonic() + 15
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(any(map(alive, pids)))


# Prints where the store is, and whether any process's command line has its token.
ASK_FOR_STORE = RANK + """
import glob
token = os.environ.get("LOCKSTEP_STORE_TOKEN", "")
def shows(path):
    try: return token.encode() in open(path, "rb").read()
    except OSError: return False
print(os.environ.get("LOCKSTEP_STORE"), len(token),
      token != "" and any(map(shows, glob.glob("/proc/[0-9]*/cmdline"))))
"""


class Store(unittest.TestCase):
    def test_ranks_are_told_where_it_is(self):
        job = run("-n", 2, "--", *python(ASK_FOR_STORE))
        found = re.findall(r"^\[[01]\] 127\.0\.0\.1:(\d+) 32 False$", job.stdout, re.MULTILINE)
        self.assertEqual(len(found), 2, job.stdout + job.stderr)
        self.assertEqual(found[0], found[1])
        self.assertEqual(run("-n", 1, "--", *python(ASK_FOR_STORE)).stdout, "[0] None 0 False\n")

    def test_one_that_is_given_stays(self):
        given = "LOCKSTEP_STORE=elsewhere:1"
        job = run("-n", 2, "--env", given, "--", *python(ASK_FOR_STORE))
        self.assertEqual(job.stdout.count("elsewhere:1 0 False\n"), 2, job.stdout + job.stderr)
        name, value = given.split("=")
        job = run("-n", 2, "--", *python(ASK_FOR_STORE), env={**os.environ, name: value})
        self.assertEqual(job.stdout.count("elsewhere:1 0 False\n"), 2, job.stdout + job.stderr)

    def test_nothing_is_left_when_the_launcher_is_killed(self):
        for _ in range(3):
            job = start("-n", 2, "--", *python(STUBBORN))
            wait_for_lines(job, "ready", 2)
            family = descendants(job.pid)
            names = [pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in family]
            self.assertEqual(names.count("lockstep-store"), 1, names)
            self.assertIn("mpirun", names)
            job.kill()
            job.communicate(timeout=30)
            deadline = time.monotonic() + 15
            while any(map(alive, family)) and time.monotonic() < deadline:
                time.sleep(0.05)
            left = [name for pid, name in zip(family, names) if alive(pid)]
            self.assertEqual(left, [])

    def test_it_ends_with_the_job(self):
        job = start("-n", 2, "--", *python(RANK + "print('ready', flush=True); sys.stdin.read()"),
                    stdin=subprocess.PIPE)
        wait_for_lines(job, "ready", 2)
        family = descendants(job.pid)
        job.communicate(timeout=30)
        self.assertEqual(job.returncode, 0)
        self.assertFalse(any(map(alive, family)))


class Tool(unittest.TestCase):
    def test_help_and_version(self):
        for arguments in (["--version"], ["version"], ["run", "--version"]):
            job = subprocess.run([LOCKSTEP, *arguments], capture_output=True, text=True)
            self.assertEqual(job.returncode, 0)
            self.assertRegex(job.stdout, r"^lockstep \d+\.\d+\.\d+\n$")
        for command in ([], ["run"], ["checkpoint"], ["checkpoint", "diff"]):
            job = subprocess.run([LOCKSTEP, *command, "--help"], capture_output=True, text=True)
            self.assertEqual(job.returncode, 0)
            self.assertTrue(job.stdout.startswith(" ".join(["Usage: lockstep", *command])))
        job = subprocess.run([LOCKSTEP, "rnu"], capture_output=True, text=True)
        self.assertEqual(job.returncode, 2)
        self.assertIn("unknown command rnu; the nearest is run", job.stderr)


if __name__ == "__main__":
    unittest.main()
