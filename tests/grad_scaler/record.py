#!/usr/bin/env python3
"""Records what PyTorch's GradScaler does into tests/data/grad_scaler.json, which tests/data/README.md
describes.

    record.py [--out FILE]

Needs PyTorch; no test needs it. The same PyTorch writes the same values.
"""

import argparse
import json
import math
import pathlib

import torch

RATE = 0.125  # of SGD
OUT = pathlib.Path(__file__).resolve().parents[1] / "data" / "grad_scaler.json"

# The planted steps have the value in one gradient; at step `restart` a new scaler loads the state.
CASES = [
    dict(name="grows_and_backs_off", options=dict(init_scale=1024.0, growth_interval=3), steps=24,
         inf=[0, 5, 6, 13], nan=[17]),
    dict(name="defaults", options={}, steps=6, inf=[0, 1, 4]),
    dict(name="other_factors", steps=30, inf=[4, 5, 19], nan=[9],
         options=dict(init_scale=100.0, growth_factor=1.3, backoff_factor=0.3, growth_interval=2)),
    dict(name="interval_of_one", options=dict(init_scale=8.0, growth_interval=1), steps=10, inf=[3, 7]),
    dict(name="all_overflow", options=dict(init_scale=4.0, growth_interval=2), steps=8,
         inf=list(range(8))),
    dict(name="largest_scale", options=dict(init_scale=2.0**126, growth_interval=1), steps=6, inf=[4],
         gradient=2.0**-10),
    dict(name="saved_and_loaded", options=dict(init_scale=256.0, growth_interval=4), steps=20,
         inf=[3, 10], restart=7),
    dict(name="clipped", options=dict(init_scale=512.0, growth_interval=3), steps=16, inf=[2, 9],
         max_norm=0.5),
]


def gradient(case, step):
    size = case.get("gradient", 1.0)
    return [size * ((7 * step + 3 * i) % 5 - 2) / 4 for i in range(4)]


def record(case):
    scaler = torch.amp.GradScaler("cpu", **case["options"])
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=RATE)
    steps = []
    for step in range(case["steps"]):
        if step == case.get("restart"):
            state = scaler.state_dict()
            scaler = torch.amp.GradScaler("cpu", **case["options"])
            scaler.load_state_dict(state)
        optimizer.zero_grad()
        scaler.scale((weight * torch.tensor(gradient(case, step))).sum()).backward()
        for kind in ("inf", "nan"):
            if step in case.get(kind, []):
                weight.grad[2] = float(kind)
        before = weight.detach().clone()
        if "max_norm" in case:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([weight], case["max_norm"])
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        planted = next((kind for kind in ("inf", "nan") if step in case.get(kind, [])), None)
        steps.append(dict(gradient=gradient(case, step), planted=planted,
                          skipped=bool(planted) and torch.equal(before, weight.detach()),
                          scale=state["scale"], growth_tracker=state["_growth_tracker"],
                          weight=weight.detach().tolist()))
        assert math.isfinite(state["scale"])
    return dict(name=case["name"], options=case["options"], max_norm=case.get("max_norm", 0),
                restart=case.get("restart", -1), steps=steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    out = parser.parse_args().out
    recorded = dict(pytorch=torch.__version__, rate=RATE, cases=[record(case) for case in CASES])
    lines = []
    for case in recorded["cases"]:
        steps = ",\n  ".join(json.dumps(step) for step in case.pop("steps"))
        lines.append(json.dumps(case)[:-1] + f', "steps": [\n  {steps}]}}')
    cases = ",\n ".join(lines)
    out.write_text(f'{{"pytorch": "{recorded["pytorch"]}", "rate": {RATE}, "cases": [\n {cases}]}}\n')


if __name__ == "__main__":
    main()
