#!/usr/bin/env python3
"""PyTorch's side of model_benchmark: training steps of an MLP or ResNet-50 on data of the device.

Prints one JSON line like model_benchmark's. ResNet-50 lies channels last. Where WORLD_SIZE is above 1
(RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT beside it; torchrun sets them) it trains under
DistributedDataParallel: --batch is a rank's, and rank 0 prints.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        outputs = 4 * channels
        self.conv1, self.bn1 = nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.beside = None
        if stride != 1 or inputs != outputs:
            self.beside = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                        nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + (self.beside(x) if self.beside else x))


def resnet50():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
              nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, blocks in enumerate([3, 4, 6, 3]):
        channels = 64 << stage
        for block in range(blocks):
            layers.append(Bottleneck(inputs, channels, 2 if stage > 0 and block == 0 else 1))
            inputs = 4 * channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
                         nn.Linear(512, 10))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mlp", "resnet50"], default="mlp")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    for name, default in [("batch", 64), ("rounds", 5), ("steps", 100)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true")
    flags = parser.parse_args()
    begin = time.perf_counter()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and flags.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
    elif ranks > 1:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = (mlp() if flags.model == "mlp" else resnet50()).to(flags.device)
    torch.manual_seed(1 + rank)  # each rank's own batch
    if flags.model == "mlp":
        inputs, classes = torch.randn(flags.batch, 784, device=flags.device), 10
    else:
        model = model.to(memory_format=torch.channels_last)
        inputs, classes = torch.randn(flags.batch, 3, 224, 224, device=flags.device), 1000
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(classes, (flags.batch,), device=flags.device)
    if ranks > 1:
        model = nn.parallel.DistributedDataParallel(
            model, device_ids=[torch.cuda.current_device()] if flags.device == "cuda" else None,
            gradient_as_bucket_view=True)
    forward = torch.compile(model) if flags.compile else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    wait = torch.cuda.synchronize if flags.device == "cuda" else (lambda: None)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(flags.device, torch.bfloat16, enabled=flags.precision == "bf16"):
            loss = F.cross_entropy(forward(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    first_loss = step().item()
    first = time.perf_counter() - begin
    for _ in range(10):
        step()
    rounds = []
    for _ in range(flags.rounds):
        wait()
        start = time.perf_counter()
        for _ in range(flags.steps):
            loss = step()
        wait()
        rounds.append((time.perf_counter() - start) / flags.steps)
    if rank == 0:
        print(json.dumps({
            "model": flags.model, "batch": flags.batch, "ranks": ranks, "precision": flags.precision,
            "compiled": flags.compile, "step_seconds": statistics.median(rounds),
            "first_step_seconds": first, "loss": [first_loss, loss.item()],
            "torch": torch.__version__,
            "memory_bytes": torch.cuda.max_memory_allocated() if flags.device == "cuda" else None}),
            flush=True)
    if ranks > 1:
        torch.distributed.destroy_process_group()


main()
