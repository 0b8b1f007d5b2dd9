#!/usr/bin/env python3
"""PyTorch's side of collectives_benchmark: times its collectives in f32 and bf16.

One process a rank, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (torchrun sets
them). Rank 0 prints one JSON line: {"times": [a line as collectives_benchmark writes, ...]}.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist

SMALLEST, FACTOR, ROUNDS, BYTES_OF_A_ROUND = 4, 8, 5, 256 << 20  # as in collectives_benchmark
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--largest", type=int, default=1 << 30, help="bytes")
    return parser.parse_args()


def sizes_up_to(largest):
    sizes = []
    size = SMALLEST
    while size < largest:
        sizes.append(size)
        size *= FACTOR
    return [*sizes, largest]


def call_of(collective, in_place, whole, part, rank):
    own = whole[rank * part.numel():(rank + 1) * part.numel()] if in_place else part
    if collective == "all_reduce":
        return lambda: dist.all_reduce(whole, async_op=True)
    if collective == "broadcast":
        return lambda: dist.broadcast(whole, 0, async_op=True)
    if collective == "reduce_scatter":
        return lambda: dist.reduce_scatter_tensor(own, whole, async_op=True)
    return lambda: dist.all_gather_into_tensor(whole, own, async_op=True)


def main():
    flags = parse_flags()
    on_gpu = flags.device == "cuda"
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)

    def measure(call, bytes_):
        calls = min(max(BYTES_OF_A_ROUND // bytes_, 3), 50)
        seconds = []
        for _ in range(ROUNDS + 1):
            wait()
            dist.barrier()
            wait()
            begin = time.perf_counter()
            works = [call() for _ in range(calls)]
            for work in works:
                work.wait()
            wait()
            seconds.append((time.perf_counter() - begin) / calls)
        slowest = torch.tensor([statistics.median(seconds[1:])], dtype=torch.float64, device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return slowest.item()

    times = []
    for collective in ("all_reduce", "reduce_scatter", "all_gather", "broadcast"):
        slices = collective in ("reduce_scatter", "all_gather")
        for in_place in (True, False) if slices else (True,):
            for name, dtype in DTYPES.items():
                for bytes_ in sizes_up_to(flags.largest):
                    elements = max(bytes_ // dtype.itemsize, 1)
                    if slices:
                        elements = max(elements // ranks, 1) * ranks
                    whole = torch.zeros(elements, dtype=dtype, device=device)
                    part = torch.zeros(elements // ranks, dtype=dtype, device=device)
                    seconds = measure(call_of(collective, in_place, whole, part, rank), bytes_)
                    algorithm = elements * dtype.itemsize / seconds
                    others = (ranks - 1) / ranks
                    factor = {"all_reduce": 2 * others, "broadcast": 1}.get(collective, others)
                    times.append({"collective": collective, "dtype": name, "bytes": bytes_,
                                  "place": "plain", "in_place": in_place, "ranks": ranks,
                                  "seconds": seconds, "algorithm_bandwidth": algorithm,
                                  "bus_bandwidth": algorithm * factor})
    if rank == 0:
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else "none"
        print(json.dumps({"times": times, "torch": torch.__version__, "nccl": nccl}), flush=True)
    dist.destroy_process_group()


main()
