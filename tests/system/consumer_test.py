"""Lockstep as a library: installed, moved elsewhere, found by a project outside (tests/consumer),
and used from a build folder and as a subdirectory."""

import pathlib
import re
import tempfile

import programs
from programs import BUILD, SOURCE, launch, run

CONSUMER = SOURCE / "tests" / "consumer"


def succeed(*command):
    result = run(command, timeout=240)
    if result.returncode != 0:
        raise AssertionError(f"{command}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def losses(output):
    return [float(loss) for loss in re.findall(r"^step \d+: loss (\S+)$", output, re.MULTILINE)]


class Consumer(programs.SystemTest):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.work = pathlib.Path(folder.name)
        succeed("cmake", "--install", BUILD, "--prefix", cls.work / "first")
        cls.prefix = (cls.work / "first").rename(cls.work / "moved")
        cls.build = cls.work / "build"
        succeed("cmake", "-G", "Ninja", "-S", CONSUMER, "-B", cls.build,
                f"-DCMAKE_PREFIX_PATH={cls.prefix}")
        succeed("cmake", "--build", cls.build)

    def test_nothing_installed_names_the_build_or_the_first_place(self):
        found = re.search(r"^lockstep_DIR:PATH=(.*)$", (self.build / "CMakeCache.txt").read_text(),
                          re.MULTILINE)
        self.assertTrue(found[1].startswith(str(self.prefix)), found[1])
        for path in filter(pathlib.Path.is_file, self.prefix.rglob("*")):
            content = path.read_bytes()
            # Debug information may name the folder in which the compiler ran.
            names = [BUILD / "lib", BUILD / "include", self.work]
            if path.suffix in (".cmake", ".h"):
                names += [BUILD, SOURCE]
            for name in names:
                self.assertNotIn(bytes(name), content, path)

    def test_headers_are_complete(self):
        include = self.prefix / "include"
        headers = list(include.rglob("*.h"))
        self.assertGreater(len(headers), 50)
        for header in headers:
            for name in re.findall(r'#include ["<](\S+)[">]', header.read_text()):
                if name.startswith("lockstep/"):
                    self.assertTrue((include / name).is_file(), f"{header} includes {name}")
                self.assertFalse(name.startswith(("CLI/", "nlohmann/", "mpi")), f"{header}: {name}")

    def test_trains_alone_and_under_mpirun(self):
        alone = losses(self.succeed([self.build / "train"]).stdout)
        self.assertEqual(len(alone), 20)
        self.assertLess(alone[-1], alone[0] / 10)
        two = losses(self.succeed(launch(2, self.build / "train")).stdout)
        self.assertEqual(len(two), 20)
        for one, other in zip(alone, two):
            self.assertAlmostEqual(one, other, delta=1e-4 * alone[0])

    def test_hook_and_function_of_its_own(self):
        for ranks in (1, 2):
            output = self.succeed(launch(ranks, self.build / "extend")).stdout
            for rank in range(ranks):  # 101 gradients in 128 places of 2 bytes
                self.assertIn(f"rank {rank} of {ranks} sent 256 bytes\n", output)
            self.assertIn("caught: clipped_log: i64, expected floating values\n", output)
        self.assertIn("--learning-rate X", self.succeed([self.build / "extend", "--help"]).stdout)

    def test_a_plugin_that_is_missing_is_named(self):
        nowhere = dict(programs.ENVIRONMENT, LOCKSTEP_PLUGIN_DIR="/nowhere")
        result = run(launch(2, self.build / "extend"), env=nowhere)
        self.assertEqual(result.returncode, 1)
        self.assertIn("/nowhere/liblockstep_mpi.so: cannot open", result.stderr)
        self.assertIn("apt-get install openmpi-bin", result.stderr)

    def test_from_the_build_folder(self):
        folder = self.folder / "build"
        succeed("cmake", "-G", "Ninja", "-S", CONSUMER, "-B", folder, f"-Dlockstep_DIR={BUILD}")
        succeed("cmake", "--build", folder, "--target", "train")
        self.assertEqual(len(losses(self.succeed(launch(2, folder / "train")).stdout)), 20)

    def test_as_a_subdirectory(self):
        (self.folder / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.25)
project(outer LANGUAGES CXX)
add_subdirectory({SOURCE} lockstep)
add_executable(train {CONSUMER}/train.cc)
target_link_libraries(train PRIVATE lockstep::lockstep)
""")
        folder = self.folder / "build"
        succeed("cmake", "-G", "Ninja", "-S", self.folder, "-B", folder)
        targets = succeed("cmake", "--build", folder, "--target", "help")
        self.assertIn("lockstep_launcher:", targets)
        for name in ("unit_runtime", "conformance", "gpt"):
            self.assertNotIn(name, targets)

    def test_the_readme_shows_these_files(self):
        readme = (SOURCE / "README.md").read_text()
        self.assertIn((CONSUMER / "train.cc").read_text(), readme)
        project = (CONSUMER / "CMakeLists.txt").read_text()
        self.assertIn(project[:project.index("\nadd_executable(extend")], readme)


if __name__ == "__main__":
    programs.main()
