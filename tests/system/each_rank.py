"""Runs `mpirun` and requires a line with TEXT from each of COUNT ranks.

Its exit code says nothing: ranks that leave a broken job cannot finalize MPI, which it takes for a
failure.

usage: each_rank.py TEXT COUNT mpirun ARG…
"""

import subprocess
import sys

text, count, *command = sys.argv[1:]
result = subprocess.run(command, capture_output=True, text=True)
print(result.stdout, result.stderr, sep="")
found = sum(text in line for line in result.stdout.splitlines())
if found != int(count):
    sys.exit(f"'{text}' from {found} ranks, expected {count}")
