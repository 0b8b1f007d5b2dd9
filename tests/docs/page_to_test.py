#!/usr/bin/env python3
"""Turns a page of docs/ into a GoogleTest file: page_to_test.py PAGE.md OUT.cc

Every ```cpp block becomes a test. In it `std::cout << EXPRESSION;  // TEXT` expects that text. A block
that begins with `// given` is what the tables' rows may use: each row's second column becomes a
block of code in its section's test."""

import pathlib
import re
import sys

HEADER = """// Made from {page} by tests/docs/page_to_test.py.
#include <gtest/gtest.h>

#include <sstream>

{includes}

namespace lockstep {{
namespace {{
"""
INCLUDES = [
    "autograd/anomaly.h", "autograd/autocast.h", "autograd/checkpoint.h", "autograd/function.h",
    "autograd/gradient_check.h", "autograd/ops.h", "autograd/ops/creation.h", "autograd/print.h",
    "nn/init.h", "nn/layers.h", "nn/models/resnet.h", "nn/optim.h",
    "nn/parallel/data_parallel.h", "nn/parallel/sync_batch_norm.h",
]
PRINT = re.compile(r"std::cout << (?P<what>.*);  // (?P<text>.*)")


def printing(line):
    match = PRINT.fullmatch(line.strip())
    if not match:
        return line
    return (f'{{ std::ostringstream out; out << {match["what"]}; '
            f'EXPECT_EQ(out.str(), "{match["text"]}"); }}')


def statements(cell):
    code = cell.strip().removeprefix("`").removesuffix("`").replace("\\|", "|")
    code = code.replace("std::cout", "std::ostringstream()")
    if ";" not in code:
        code = f"static_cast<void>({code});"
    return code


def main(page, out):
    given, tests, rows = "", [], []
    section, block, block_line = "", None, 0

    def end_rows():
        if rows:
            tests.append((section, 'given_code\n' + "\n".join(rows)))
            rows.clear()

    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if block is None:
                block, block_line = [], number + 1
            else:
                code = "\n".join(block)
                if code.startswith("// given"):
                    given = f'#line {block_line} "{page}"\n{code}'
                else:
                    tests.append((section, f'#line {block_line} "{page}"\n' + "\n".join(map(printing, block))))
                block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("#"):
            end_rows()
            section = line.strip("# ")
        elif line.startswith("| ") and not line.startswith("| PyTorch"):
            cells = re.split(r"(?<!\\)\|", line)
            if len(cells) != 5:
                sys.exit(f"{page}:{number}: a row of {len(cells) - 2} columns, expected 3")
            rows.append(f'{{\n#line {number} "{page}"\n{statements(cells[2])}\n}}')
    end_rows()
    if not given or len(tests) < 10:
        sys.exit(f"{page}: found {len(tests)} pieces of code and {'a' if given else 'no'} given one")

    text = HEADER.format(page=page.name, includes="\n".join(f'#include "lockstep/{i}"' for i in INCLUDES))
    for i, (name, body) in enumerate(tests):
        title = re.sub(r"\W+", " ", name).title().replace(" ", "")
        body = body.replace("given_code", given)
        text += f"\nTEST(PytorchPage, {title}{i}) {{\n{body}\n}}\n"
    out.write_text(text + "\n}  // namespace\n}  // namespace lockstep\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
