#!/usr/bin/env python3
"""Records the cases of cases/own from PyTorch: what Lockstep's results are held against.

    record.py [--filter SUBSTRING] [--out FOLDER]

Needs PyTorch (with NumPy); tests/run does not need either. The same PyTorch writes the same values:
every case draws its inputs from a seed made of its name. cases/README.md describes the format;
recorded_ops.py and recorded_states.py say which cases there are.
"""

import argparse
import json
import math
import pathlib
import struct
import sys
import warnings
import zlib

import torch

sys.dont_write_bytecode = True
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}
TOLERANCES = {
    torch.float64: ("1e-9", "1e-11"), torch.float32: ("1e-4", "1e-5"),
    torch.bfloat16: ("2e-2", "2e-2"), torch.float16: ("3e-3", "3e-3"),
}


def write_safetensors(path, tensors, metadata):
    header = {"__metadata__": metadata}
    data = b""
    # Larger dtypes first keep everything aligned.
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        tensor = tensors[name].detach().contiguous().reshape(-1)
        raw = tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def plain(value):
    """JSON with the floats that it lacks as strings, dtypes by name."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value


def flattened(tensors):
    """{"x": t, "hx": [a, b]} as {"x": t, "hx.0": a, "hx.1": b}."""
    flat = {}
    for name, value in tensors.items():
        if isinstance(value, (list, tuple)):
            flat.update({f"{name}.{i}": item for i, item in enumerate(value)})
        else:
            flat[name] = value
    return flat


def outputs_of(result):
    """The tensors of nested outputs, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for item in result if item is not None for t in outputs_of(item)]


class Recorder:
    def __init__(self, folder, wanted):
        self.folder = folder
        self.wanted = wanted
        self.counts = {}
        self.files = 0

    def numbered(self, kind, name):
        """The next file of that name; nothing if it is not wanted. Seeds what is drawn next."""
        number = self.counts[kind, name] = self.counts.get((kind, name), 0) + 1
        path = self.folder / kind / f"{name}.{number:02}.safetensors"
        torch.manual_seed(zlib.crc32(f"{kind}/{name}.{number}".encode()))
        return path if self.wanted in str(path) else None

    def write(self, path, kind, name, attributes, tensors, tolerance, layouts=None):
        metadata = {"kind": kind, "name": name, "attributes": json.dumps(plain(attributes)),
                    "rtol": tolerance[0], "atol": tolerance[1]}
        if layouts:
            metadata["layouts"] = json.dumps(layouts)
        write_safetensors(path, tensors, metadata)
        self.files += 1

    def op(self, name, make_inputs, attributes=None, *, gradients=True, second=False, constants=(),
           tolerance=None, call=None):
        """`make_inputs()` gives the tensors (lists where PyTorch takes lists), differentiated if they are
        floating and no `constants`; `call(inputs, attributes)` is PyTorch's function of that name when
        it is not given."""
        path = self.numbered("op", name)
        if path is None:
            return
        attributes = dict(attributes or {})
        inputs = make_inputs()
        flat = flattened(inputs)
        tensors, layouts, leaves = {}, {}, {}
        for key, tensor in flat.items():
            if tensor.is_contiguous() or tensor.numel() == 0:
                tensors[f"in.{key}"] = tensor.clone()
            else:
                layouts[f"in.{key}"] = layout = {"shape": list(tensor.shape), "strides": list(tensor.stride()),
                                                 "offset": tensor.storage_offset()}
                size = layout["offset"] + 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
                tensors[f"in.{key}"] = tensor.as_strided((size,), (1,), 0).clone()
            if gradients and tensor.is_floating_point() and key not in constants:
                leaves[key] = tensor.detach().requires_grad_()
                if isinstance(inputs.get(key.split(".")[0]), list):
                    inputs[key.split(".")[0]][int(key.split(".")[1])] = leaves[key]
                else:
                    inputs[key] = leaves[key]
        outputs = outputs_of((call or CALLS.get(name) or by_name(name))(inputs, attributes))
        for i, output in enumerate(outputs):
            tensors[f"out.{i}"] = output.detach().clone()
        self.add_gradients(tensors, outputs, leaves, second)
        worst = max((t.dtype for t in [*flat.values(), *outputs] if t.is_floating_point()),
                    key=lambda d: torch.finfo(d).eps, default=torch.float64)
        self.write(path, "op", name, attributes, tensors, tolerance or TOLERANCES[worst], layouts)

    def add_gradients(self, tensors, outputs, leaves, second=False, state=None):
        state = state or {}
        seeded = [(i, o) for i, o in enumerate(outputs) if o.requires_grad]
        if not seeded or not (leaves or state):
            return
        cotangents = [torch.randn(o.shape, dtype=torch.float64).to(o.dtype) for _, o in seeded]
        named = {**{f"grad.{k}": v for k, v in leaves.items()}, **{f"grad.state.{k}": v for k, v in state.items()}}
        found = torch.autograd.grad([o for _, o in seeded], list(named.values()), cotangents,
                                    create_graph=second, allow_unused=True)
        gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(found, named.values())]
        tensors.update({f"cotangent.{i}": c for (i, _), c in zip(seeded, cotangents)})
        tensors.update({key: g.detach().clone() for key, g in zip(named, gradients)})
        if not second:
            return
        directions = {k: torch.randn(v.shape, dtype=torch.float64).to(v.dtype) for k, v in leaves.items()}
        total = sum((g * d).sum() for g, d in zip(gradients, directions.values()))
        found = [None] * len(leaves)
        if total.requires_grad:
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        for (key, leaf), value in zip(leaves.items(), found):
            tensors[f"direction.{key}"] = directions[key]
            tensors[f"second.{key}"] = torch.zeros_like(leaf) if value is None else value


def by_name(name):
    """The function of torch, or of torch.nn.functional, of that name."""
    functional = torch.nn.functional
    function = getattr(functional, name, None) or getattr(torch, name)
    return lambda inputs, attributes: function(**inputs, **attributes)


def reduction(name):
    def call(inputs, attributes):
        if attributes["dim"] is None:
            return getattr(torch, name)(inputs["input"])
        return getattr(torch, name)(inputs["input"], attributes["dim"], keepdim=attributes["keepdim"])
    return call


def operands(name):
    """Ops whose operands may be numbers."""
    def call(inputs, attributes):
        rest = {k: v for k, v in attributes.items() if k not in ("input", "other", "exponent")}
        second = "exponent" if name == "pow" else "other"
        pick = lambda key: inputs[key] if key in inputs else attributes[key]
        return getattr(torch, name)(pick("input"), pick(second), **rest)
    return call


CALLS = {
    **{name: reduction(name) for name in
       ("max", "min", "prod", "sum", "mean", "all", "any")},
    **{name: operands(name) for name in
       ("add", "sub", "mul", "div", "pow", "fmod", "remainder", "eq", "ne", "lt", "le", "gt", "ge",
        "maximum", "minimum", "atan2")},
    "amax": lambda t, a: torch.amax(t["input"], a["dim"] if a["dim"] is not None else (), a["keepdim"]),
    "amin": lambda t, a: torch.amin(t["input"], a["dim"] if a["dim"] is not None else (), a["keepdim"]),
    "norm": lambda t, a: torch.linalg.vector_norm(t["input"], a["p"], a["dim"], a["keepdim"]),
    "to": lambda t, a: t["input"].to(a["dtype"]),
    "expand": lambda t, a: t["input"].expand(a["size"]),
    "repeat": lambda t, a: t["input"].repeat(a["repeats"]),
    "where": lambda t, a: torch.where(t["condition"], t["input"], t.get("other", a.get("other"))),
    "lerp": lambda t, a: torch.lerp(t["input"], t["end"], t.get("weight", a.get("weight"))),
    "clamp": lambda t, a: torch.clamp(t["input"], t.get("min", a.get("min")), t.get("max", a.get("max"))),
    "einsum": lambda t, a: torch.einsum(a["equation"], *t["operands"]),
    "squeeze": lambda t, a: torch.squeeze(t["input"]) if a["dim"] is None else torch.squeeze(t["input"], a["dim"]),
    "roll": lambda t, a: torch.roll(t["input"], a["shifts"], a["dims"] or ()),
    "masked_fill": lambda t, a: torch.masked_fill(t["input"], t["mask"], a["value"]),
    "cat": lambda t, a: torch.cat(t["tensors"], a["dim"]),
    "stack": lambda t, a: torch.stack(t["tensors"], a["dim"]),
    "repeat_interleave": lambda t, a: torch.repeat_interleave(
        t["input"], t.get("repeats", a.get("repeats")), dim=a["dim"]),
    "embedding": lambda t, a: torch.nn.functional.embedding(t["input"], t["weight"], a["padding_idx"]),
    "one_hot": lambda t, a: torch.nn.functional.one_hot(t["input"], a["num_classes"]),
    "dropout": lambda t, a: torch.nn.functional.dropout(t["input"], a["p"], a["training"]),
    "unfold": lambda t, a: torch.nn.functional.unfold(
        t["input"], a["kernel_size"], a["dilation"], a["padding"], a["stride"]),
    **{name: (lambda f: lambda t, a: f(**t, **a))(getattr(torch, name)) for name in
       ("softmax", "log_softmax", "std", "var", "conv1d", "conv2d", "conv3d")},
    "instance_norm": lambda t, a: torch.nn.functional.instance_norm(**t, **a),
    "rms_norm": lambda t, a: torch.nn.functional.rms_norm(
        t["input"], a["normalized_shape"], t.get("weight"), a["eps"]),
    "scaled_dot_product_attention": lambda t, a: torch.nn.functional.scaled_dot_product_attention(
        t["query"], t["key"], t["value"], attn_mask=t.get("attn_mask"), **a),
    "batch_norm": lambda t, a: torch.nn.functional.batch_norm(
        t["input"], t.get("running_mean"), t.get("running_var"), t.get("weight"), t.get("bias"),
        a["training"], a["momentum"], a["eps"]),
}


def main():
    import recorded_ops
    import recorded_states

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--filter", default="", help="only the files whose path contains it")
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / "cases/own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # kl_div's advice on reductions
    recorder = Recorder(options.out, options.filter)
    recorded_ops.record(recorder)
    recorded_states.record(recorder)
    print(f"{recorder.files} cases in {options.out}, from PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
