#!/usr/bin/env python3
"""Records what PyTorch's DistributedDataParallel computes for awkward models (awkward_models.py) into
tests/data/ddp, which tests/data/README.md describes.

    record.py [--filter SUBSTRING] [--out FOLDER]

Needs PyTorch, NumPy and safetensors; no test needs any of them. Ranks are processes that talk by gloo.
The same PyTorch writes the same values: what is drawn is drawn from a seed made of the case's name.
"""

import argparse
import contextlib
import gc
import json
import pathlib
import sys
import tempfile
import zlib

import safetensors.torch
import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

sys.dont_write_bytecode = True
from awkward_models import CASES, STEPS  # noqa: E402


class Share:
    """One rank's rows of one step's batch."""

    def __init__(self, inputs, rank, step, first, count):
        self.inputs, self.rank, self.step, self.first, self.count = inputs, rank, step, first, count

    def __getitem__(self, name):
        rows = self.inputs[name][self.step, self.first:self.first + self.count]
        return rows.double() if rows.is_floating_point() else rows

    def part(self, index, parts):
        count = self.count // parts
        return Share(self.inputs, self.rank, self.step, self.first + index * count, count)


class Run:
    """One case on one rank. Without a process group (`ranks` 1) the module is trained as it is."""

    def __init__(self, case, ranks, rank):
        self.case, self.ranks, self.rank = case, ranks, rank
        torch.manual_seed(zlib.crc32(case.name.encode()))
        self.inputs = case.inputs()
        self.module = case.model().double()
        self.initial = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        case.prepare(self.module, 0)
        self.wrap()
        self.optimizers = {
            part: getattr(torch.optim, case.optimizer["name"])(
                module.parameters(), **{k: v for k, v in case.optimizer.items() if k != "name"})
            for part, module in self.parts()
        }
        self.losses = torch.zeros(STEPS, dtype=torch.float64)
        self.has_gradient = {name: torch.zeros(STEPS, dtype=torch.bool) for name in self.initial}

    def parts(self):
        return [(part, self.module.get_submodule(part)) for part in self.case.parts]

    def wrap(self):
        self.nets = None
        gc.collect()  # an older one's hooks go with it
        self.nets = {
            part: DistributedDataParallel(module, **self.case.ddp) if self.ranks > 1 else module
            for part, module in self.parts()
        }

    def shares(self):
        samples = self.case.samples_of(self.ranks)
        for step in range(self.case.steps_of(self.rank)):
            yield Share(self.inputs, self.rank, step, sum(samples[:self.rank]), samples[self.rank])

    def backward(self, share, loss, *, last=True, part=""):
        """`loss(net)` calls the wrapped module; of a step's passes only the `last` reduces."""
        net = self.nets[part]
        with contextlib.nullcontext() if last or self.ranks == 1 else net.no_sync():
            value = loss(net)
            value.backward()
        self.losses[share.step] += value.item()

    def train(self):
        for share in self.shares():
            if share.step > 0:
                self.case.prepare(self.module, share.step)
            if share.step == self.case.wrap_again_at:
                self.wrap()
            self.case.step(self, share)
            for name, parameter in self.module.named_parameters():
                self.has_gradient[name][share.step] = parameter.grad is not None

    def result(self):
        # Join ends the ranks that are early at different steps.
        joins = self.ranks > 1 and self.case.divide_by_initial_world_size is not None
        join = Join(list(self.nets.values()),
                    divide_by_initial_world_size=self.case.divide_by_initial_world_size) if joins else None
        with join or contextlib.nullcontext():
            self.train()
        return {
            "inputs": self.inputs, "initial": self.initial, "loss": self.losses,
            "has_gradient": self.has_gradient,
            "final": {name: p.detach().clone() for name, p in self.module.named_parameters()},
        }


def record_rank(rank, ranks, names, folder):
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{ranks}.store", rank=rank,
                                world_size=ranks)
    results = {name: Run(CASES[name], ranks, rank).result() for name in names}
    torch.save(results, f"{folder}/{ranks}.{rank}.pt")
    if ranks > 1:
        dist.destroy_process_group()


def record_ranks(ranks, names):
    """What every rank made of each case."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(record_rank, (ranks, names, folder), nprocs=ranks)
        results = [torch.load(f"{folder}/{ranks}.{rank}.pt") for rank in range(ranks)]
    return {name: [result[name] for result in results] for name in names}


def add_run(tensors, case, ranks, results):
    first = results[0]
    for other in results[1:]:
        for name, values in first["final"].items():
            assert torch.equal(values, other["final"][name]), f"{case.name}: {name} differs among ranks"
            if case.steps_of(1) == STEPS:
                assert torch.equal(first["has_gradient"][name], other["has_gradient"][name]), name
    prefix = "whole_batch" if ranks == 1 else f"{ranks}_ranks"
    tensors[f"{prefix}.samples"] = torch.tensor(case.samples_of(ranks))
    tensors[f"{prefix}.loss"] = torch.stack([result["loss"] for result in results], 1)
    for name, values in first["final"].items():
        tensors[f"{prefix}.final.{name}"] = values
        tensors[f"{prefix}.has_gradient.{name}"] = first["has_gradient"][name]


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--filter", default="")
    parser.add_argument("--out", type=pathlib.Path, default=here.parent / "data" / "ddp")
    arguments = parser.parse_args()
    wanted = [case for case in CASES.values() if arguments.filter in case.name]
    recorded = {
        ranks: record_ranks(ranks, [case.name for case in wanted if ranks in case.ranks])
        for ranks in sorted({ranks for case in wanted for ranks in case.ranks})
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in wanted:
        tensors = {}
        for ranks in case.ranks:
            results = recorded[ranks][case.name]
            tensors.update({f"inputs.{k}": v for k, v in results[0]["inputs"].items()})
            tensors.update({f"initial.{k}": v for k, v in results[0]["initial"].items()})
            add_run(tensors, case, ranks, results)
        path = arguments.out / f"{case.name}.safetensors"
        safetensors.torch.save_file(tensors, path, {"optimizer": json.dumps(case.optimizer)})
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
