#!/usr/bin/env python3
"""PyTorch's side of the GPT comparison: training steps of a GPT-2 on random tokens.

Prints "first step" as soon as the first optimizer step is done, and at the end one JSON line:
{"step_seconds": [...], "loss": ..., "parameters": ..., "torch": "...", "memory_bytes": ...}.
With --data-parallel one process a rank, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT (torchrun sets them); --batch is a rank's, and rank 0 prints.
Needs PyTorch:
  python3 -m venv .cache/torch && .cache/torch/bin/pip install torch
"""

import argparse
import json
import os
import time


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in [("layers", 4), ("heads", 4), ("width", 128), ("context", 128),
                          ("batch", 16), ("vocabulary", 256), ("threads", 2), ("steps", 30)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data-parallel", choices=["none", "ddp", "fsdp"], default="none")
    parser.add_argument("--bucket-mb", type=float, default=25, help="of ddp")
    parser.add_argument("--reduce-dtype", choices=["f32", "bf16"], default="f32")
    return parser.parse_args()


flags = parse_flags()
os.environ["OMP_NUM_THREADS"] = str(flags.threads)  # before torch starts its threads

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time_, width = x.shape
        q, k, v = (part.view(batch, time_, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(self.ln_1(x)).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).reshape(batch, time_, width))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(flags.vocabulary, flags.width)
        self.positions = nn.Embedding(flags.context, flags.width)
        self.blocks = nn.ModuleList(Block(flags.width, flags.heads) for _ in range(flags.layers))
        self.norm = nn.LayerNorm(flags.width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class Training(nn.Module):
    """The loss of a batch: what is compiled, and what DDP and FSDP wrap."""

    def __init__(self):
        super().__init__()
        self.gpt = Gpt()
        self.loss = token_loss

    def forward(self, ids):
        return self.loss(self.gpt(ids[:, :-1]), ids[:, 1:])


def token_loss(logits, targets):
    if flags.data_parallel == "fsdp":
        logits = logits.float()  # autocast would
    return F.cross_entropy(logits.view(-1, flags.vocabulary), targets.reshape(-1))


def wrap_ddp(training):
    ddp = nn.parallel.DistributedDataParallel(
        training, device_ids=[torch.cuda.current_device()] if flags.device == "cuda" else None,
        bucket_cap_mb=flags.bucket_mb, gradient_as_bucket_view=True)
    if flags.reduce_dtype == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
        ddp.register_comm_hook(None, bf16_compress_hook)
    return ddp


def shard(training):
    """FSDP2 with parameters and gradients shared out; each block is compiled by itself."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    reduce_dtype = torch.bfloat16 if flags.reduce_dtype == "bf16" else torch.float32
    policy = (MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduce_dtype)
              if flags.precision == "bf16" else MixedPrecisionPolicy())
    mesh = init_device_mesh(flags.device, (int(os.environ["WORLD_SIZE"]),))
    for block in training.gpt.blocks:
        if flags.compile:
            block.compile()
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(training, mesh=mesh, mp_policy=policy)
    if flags.compile:
        training.loss = torch.compile(training.loss)
    return training


def start_ranks():
    if flags.data_parallel == "none":
        return 0
    import torch.distributed as dist
    if flags.device == "cpu":
        dist.init_process_group("gloo")
    else:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    return dist.get_rank()


def main():
    torch.set_num_threads(flags.threads)
    rank = start_ranks()
    torch.manual_seed(0)
    on_gpu = flags.device == "cuda"
    with torch.device(flags.device):  # of 7 billion parameters, too slow on the CPU
        training = Training()
    count = sum(p.numel() for p in training.parameters())
    if flags.data_parallel == "fsdp":
        training = loss_of = shard(training)
    else:
        if flags.data_parallel == "ddp":
            training = wrap_ddp(training)
        loss_of = torch.compile(training) if flags.compile else training
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(1 + rank)  # each rank's own tokens
    autocast = flags.precision == "bf16" and flags.data_parallel != "fsdp"
    matrices = [p for p in training.parameters() if p.dim() > 1]
    vectors = [p for p in training.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=flags.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)
    seconds = []
    for step in range(flags.steps):
        begin = time.perf_counter()
        ids = torch.randint(flags.vocabulary, (flags.batch, flags.context + 1),
                            device=flags.device)
        with torch.autocast(flags.device, torch.bfloat16, enabled=autocast):
            loss = loss_of(ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        seconds.append(time.perf_counter() - begin)
        if step == 0 and rank == 0:
            print("first step", flush=True)
    if rank == 0:
        print(json.dumps({"step_seconds": seconds, "loss": value, "parameters": count,
                          "torch": torch.__version__,
                          "memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None}),
              flush=True)
    if flags.data_parallel != "none":
        torch.distributed.destroy_process_group()


main()
