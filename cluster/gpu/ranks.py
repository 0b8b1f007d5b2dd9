"""What the scripts of several ranks share: starting them, with an end in any case; files; parts."""

import array
import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What a launcher that started the script has set: not for the ranks that the script starts. Settings
# of Open MPI (OMPI_MCA_…) are the user's, unless it was mpirun that started the script.
LAUNCHERS = ("OMPI_COMM_", "OMPI_UNIVERSE_", "PMIX_", "PMI_", "MPI_LOCAL",
             *(["OMPI_"] if "OMPI_COMM_WORLD_SIZE" in os.environ else []))
RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Failure(Exception):
    """A part that did not do what it should."""


def add_flags(parser, timeout):
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-gpu")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--python", default="python3", help="one that has PyTorch")
    parser.add_argument("--timeout", type=float, default=timeout,
                        help=f"seconds for each program, {timeout} unless given")
    parser.add_argument("--budget", type=float, default=560,
                        help="seconds in all, after which no more is begun; 560 unless given")


def numbers(text):
    return [int(part) for part in text.split(",")]


def gpus():
    """This machine's, as CUDA_VISIBLE_DEVICES names them; where it is set, those that it shows."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    count = sum(line.startswith("GPU ") for line in said.stdout.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    return [name for name in visible.split(",") if name][:count]


def default_ranks(flags):
    return len(gpus()) if flags.device == "cuda" else 2


def environment(flags, **more):
    carried = ROOT / ".dependencies/carried/usr/lib/x86_64-linux-gnu"
    library_path = os.environ.get("LD_LIBRARY_PATH")
    kept = {name: value for name, value in os.environ.items()
            if name not in RANK_NAMES and not name.startswith(LAUNCHERS)}
    return {**kept, "LD_LIBRARY_PATH": f"{carried}:{library_path}" if library_path else str(carried),
            "LOCKSTEP_PLUGIN_DIR": str(flags.build.resolve() / "lib"), "NCCL_NVLS_ENABLE": "0",
            "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/lockstep-inductor",
            **{name: str(value) for name, value in more.items()}}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_variables(rank, ranks, port, local_rank=None, local_size=None):
    return {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "LOCAL_RANK": rank if local_rank is None else local_rank,
            "LOCAL_WORLD_SIZE": ranks if local_size is None else local_size}


def lockstep_run(flags, ranks, *program):
    """The program alone for one rank, under `lockstep run` for more."""
    program = [str(word) for word in program]
    if ranks == 1:
        return program
    return [str(flags.build / "bin/lockstep"), "run", "-n", str(ranks), "--oversubscribe", *program]


def family(leader):
    """The running processes of the leader's session, and those that they have started."""
    children, found = {}, []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid = int(path.parent.name)
            state, parent, _, session = path.read_text().rsplit(")", 1)[1].split()[:4]
            if state in "ZX":
                continue
            children.setdefault(int(parent), []).append(pid)
            if int(session) == leader:
                found.append(pid)
    for pid in found:  # grows
        found += [child for child in children.get(pid, []) if child not in found]
    return found


def end(process):
    """Ends a program with all that it has started, even where the program itself has gone."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (pids := family(process.pid)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.wait()


def leave(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)  # on the way out every job is ended


def last_lines(text, count=4):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-count:])[-600:]


class Job:
    """Programs that belong together, one a rank or one launcher; their output goes to files."""

    def __init__(self, commands, environments):
        self.folder = tempfile.TemporaryDirectory()
        self.begin = time.monotonic()
        self.files, self.processes = [], []
        try:
            for number, (command, variables) in enumerate(zip(commands, environments)):
                self.start(number, [str(word) for word in command], variables)
        except BaseException:
            self.end()
            raise

    def start(self, number, command, variables):
        paths = [pathlib.Path(self.folder.name) / f"{number}.{kind}" for kind in ("out", "err")]
        self.files.append(paths)
        with open(paths[0], "w") as out, open(paths[1], "w") as err:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                                   env=variables, start_new_session=True))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        for process in self.processes:
            end(process)

    def texts(self, kind):
        return [paths[kind].read_text(errors="replace") for paths in self.files]

    def wait(self, timeout, until_one_fails=True):
        """The exit codes. Where one fails or time is up, the others are ended; None: by that."""
        deadline = self.begin + timeout
        codes = [None] * len(self.processes)
        while None in codes and time.monotonic() < deadline:
            codes = [process.poll() for process in self.processes]
            if until_one_fails and any(codes):
                time.sleep(2)  # for the others to say what they know
                codes = [process.poll() for process in self.processes]
                break
            time.sleep(0.02)
        self.end()
        return codes


def run(commands, environments, timeout):
    """Runs a job to its end; its texts from stdout. Throws Failure with the last words otherwise."""
    with Job(commands, environments) as job:
        codes = job.wait(timeout)
        if any(code != 0 for code in codes):
            said = last_lines("\n".join(job.texts(1))) or last_lines("\n".join(job.texts(0)))
            what = f"no end within {timeout:.0f} s" if not any(codes) else f"exit codes {codes}"
            raise Failure(f"{what}: {said}")
        return job.texts(0)


def run_lockstep(flags, ranks, *program, **variables):
    return run([lockstep_run(flags, ranks, *program)], [environment(flags, **variables)],
               flags.timeout)[0]


def run_torch(flags, ranks, script, *arguments):
    """The last line of rank 0's output, which is JSON."""
    port = free_port()
    command = [flags.python, ROOT / "tests/benchmark" / script, *arguments]
    own = {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}  # PyTorch brings its libraries
    texts = run([command] * ranks, [environment(flags, **own, **rank_variables(rank, ranks, port))
                                    for rank in range(ranks)], flags.timeout)
    return json.loads(texts[0].strip().splitlines()[-1])


def has_torch(flags):
    try:
        return subprocess.run([flags.python, "-c", "import torch"], capture_output=True,
                              timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def write_tokens(path, count, vocabulary=50257):
    """A file of random tokens for gpt."""
    generator = random.Random(1)
    tokens = array.array("H", generator.choices(range(vocabulary), k=count))
    path.write_bytes(array.array("i", [20240520, 1, count] + [0] * 253).tobytes() + tokens.tobytes())


def events(path, kind):
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be under way
    return [event for event in found if event["event"] == kind]


def check_starts(path, *expected):
    """That metrics tell of these starts alone, each as (ranks, device)."""
    found = [(event["world_size"], event["device"].split(":")[0]) for event in events(path, "start")]
    if found != list(expected):
        raise Failure(f"started with ranks and device {found}, expected {list(expected)}")


class Parts:
    """Runs one part after the other: what fails is told, and the rest goes on."""

    def __init__(self, flags):
        self.flags, self.begin = flags, time.monotonic()
        self.passed, self.failed = 0, []
        signal.signal(signal.SIGTERM, leave)

    def seconds(self):
        return time.monotonic() - self.begin

    def run(self, name, function, *arguments):
        if self.seconds() > self.flags.budget:
            self.failed.append(name)
            print(f"{name}: left out, {self.seconds():.0f} s have passed", flush=True)
            return None
        try:
            result = function(*arguments)
            self.passed += 1
            return result
        except Exception as problem:  # whatever it is, the other parts are worth their time
            self.failed.append(name)
            print(f"FAILED {name}: {type(problem).__name__}: {problem}", flush=True)
            return None

    def end(self):
        print(f"{self.seconds():.0f} s; {self.passed} passed, " + (f"{len(self.failed)} failed or left out: "
              + ", ".join(self.failed) if self.failed else "nothing failed"), flush=True)
        sys.exit(1 if self.failed else 0)
