"""The conformance program itself: what is wrong in a case has to show, whatever it is."""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

SIZES = {"F64": ("d", 8), "F32": ("f", 4), "I64": ("q", 8)}


def case(tensors, attributes=None, **metadata):
    """The bytes of a case. `tensors`: name -> (dtype, shape, values)."""
    header = {"__metadata__": {"kind": "op", "name": "mul", "attributes": json.dumps(attributes or {}),
                               "rtol": "1e-9", "atol": "1e-11", **metadata}}
    data = b""
    for name, (dtype, shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}{SIZES[dtype][0]}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# x * y with everything that a case can hold: d(out)/dx = y, and s = y * dy * dx_direction + ….
RIGHT = {
    "in.input": ("F64", [2], [3.0, -1.0]), "in.other": ("F64", [2], [5.0, 4.0]),
    "out.0": ("F64", [2], [15.0, -4.0]), "cotangent.0": ("F64", [2], [1.0, 2.0]),
    "grad.input": ("F64", [2], [5.0, 8.0]), "grad.other": ("F64", [2], [3.0, -2.0]),
    "direction.input": ("F64", [2], [1.0, 0.5]), "direction.other": ("F64", [2], [0.0, 0.0]),
    "second.input": ("F64", [2], [0.0, 0.0]), "second.other": ("F64", [2], [1.0, 1.0]),
}


class Runner(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def run_case(self, content, *options):
        (self.folder / "mul.01.safetensors").write_bytes(content)
        done = subprocess.run([PROGRAM, *options, self.folder], capture_output=True, text=True)
        return done.returncode, done.stdout.strip().split("\n")

    def fails(self, *words, changes=None, attributes=None, without=(), options=(), **metadata):
        tensors = {k: v for k, v in {**RIGHT, **(changes or {})}.items() if k not in without}
        code, lines = self.run_case(case(tensors, attributes, **metadata), *options)
        self.assertEqual((code, lines[-1]), (1, "0 passed, 1 failed, 0 skipped"), lines)
        for word in ("mul.01.safetensors", *words):
            self.assertIn(word, "\n".join(lines))

    def test_right(self):
        for options in ([], ["--gradcheck"], ["--misuse"]):
            code, lines = self.run_case(case(RIGHT), *options)
            self.assertEqual((code, lines), (0, ["1 passed, 0 failed, 0 skipped"]))

    def test_wrong_values(self):
        for name, (dtype, shape, values) in RIGHT.items():
            if name.startswith(("out.", "grad.", "second.")):
                wrong = [*values[:-1], values[-1] + 1e-6]
                self.fails(f"{name}[1]: got", "expected", changes={name: (dtype, shape, wrong)})
        self.fails("out.0[0]", changes={"out.0": ("F64", [2], [float("nan"), -4.0])})
        self.fails("out.0[0]", changes={"in.input": ("F64", [2], [float("nan"), -1.0])})

    def test_wrong_shapes_and_dtypes(self):
        self.fails("shape [2], expected [1, 2]", changes={"out.0": ("F64", [1, 2], [15.0, -4.0])})
        self.fails("dtype f64, expected f32", changes={"out.0": ("F32", [2], [15.0, -4.0])})
        self.fails("dtype f64, expected i64", changes={"out.0": ("I64", [2], [15, -4])})

    def test_what_cannot_be_expressed(self):
        self.fails("the attribute 'alpha'", attributes={"alpha": 1})
        self.fails("the tensor 'third'", changes={"in.third": RIGHT["in.input"]})
        self.fails("1 outputs, expected 2", changes={"out.1": RIGHT["out.0"]})
        self.fails("'other' is missing", without=["in.other", "grad.other", "direction.other", "second.other"])
        self.fails("no op of the name 'no_such_op'", name="no_such_op")
        self.fails("kind 'recipe'", kind="recipe")

    def test_layouts(self):
        memory = {"in.input": ("F64", [3], [9.0, 3.0, 9.0]), "grad.input": ("F64", [2], [5.0, 8.0]),
                  "out.0": ("F64", [2], [15.0, 12.0]), "grad.other": ("F64", [2], [3.0, 6.0])}
        layout = {"in.input": {"shape": [2], "strides": [0], "offset": 1}}
        code, lines = self.run_case(case({**RIGHT, **memory}, layouts=json.dumps(layout)))
        self.assertEqual(code, 0, lines)
        layout["in.input"]["offset"] = 3
        self.fails("leaves its memory", changes=memory, layouts=json.dumps(layout))

    def test_files(self):
        code, lines = self.run_case(b"not a case")
        self.assertEqual((code, lines[-1]), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertEqual(self.run_case(case(RIGHT), "--filter", "nothing")[0], 1)
        self.assertEqual(self.run_case(case(RIGHT), "--no-such-option")[0], 2)
        code, lines = self.run_case(case(RIGHT), "--list")
        self.assertEqual((code, lines), (0, [str(self.folder / "mul.01.safetensors")]))


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
