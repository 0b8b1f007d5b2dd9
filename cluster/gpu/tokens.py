#!/usr/bin/env python3
"""Writes a file of random GPT-2 tokens, for timing: tokens.py FILE COUNT."""
import random
import struct
import sys

path, count = sys.argv[1], int(sys.argv[2])
generator = random.Random(1)
with open(path, "wb") as file:
    header = [20240520, 1, count] + [0] * 253
    file.write(struct.pack("<256i", *header))
    file.write(struct.pack(f"<{count}H", *(generator.randrange(50257) for _ in range(count))))
