"""A rank that does not come to MPI's start holds the others for a time, not for ever."""

import programs

PROGRAM = programs.BUILD / "bin" / "collectives_mpi"


class Start(programs.SystemTest):
    def test_a_rank_that_stopped_before_mpi_has_started(self):
        job = programs.run(programs.mpirun(3, PROGRAM, "--absent"), timeout=60)
        self.assertNotEqual(job.returncode, 0)
        said = "absent rank reported: MPI has not started within 1000 ms: a rank has not come"
        self.assertEqual(job.stdout.count(said), 2, job.stdout + job.stderr)


if __name__ == "__main__":
    programs.main()
