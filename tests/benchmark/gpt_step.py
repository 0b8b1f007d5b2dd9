#!/usr/bin/env python3
"""PyTorch's side of the GPT comparison: training steps of a GPT-2 on random tokens.

Prints "first step" as soon as the first optimizer step is done, and at the end one JSON line:
{"step_seconds": [...], "loss": ..., "parameters": ..., "torch": "...", "memory_bytes": ...}.
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


def main():
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    on_gpu = flags.device == "cuda"
    model = Gpt().to(flags.device)

    def loss_of(ids):
        logits = model(ids[:, :-1])
        return F.cross_entropy(logits.view(-1, flags.vocabulary), ids[:, 1:].reshape(-1))

    if flags.compile:
        loss_of = torch.compile(loss_of)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=flags.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)
    seconds = []
    for step in range(flags.steps):
        begin = time.perf_counter()
        ids = torch.randint(flags.vocabulary, (flags.batch, flags.context + 1),
                            device=flags.device)
        with torch.autocast(flags.device, torch.bfloat16, enabled=flags.precision == "bf16"):
            loss = loss_of(ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        seconds.append(time.perf_counter() - begin)
        if step == 0:
            print("first step", flush=True)
    print(json.dumps({"step_seconds": seconds, "loss": value,
                      "parameters": sum(p.numel() for p in model.parameters()),
                      "torch": torch.__version__,
                      "memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None}))


main()
