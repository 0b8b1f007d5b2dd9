"""The cases of record.py: models, and what one step of training does with them. Where PyTorch's
DistributedDataParallel cannot do a step, the case has `ranks` 1 alone and says why: one process computes
it on the whole batch. Losses are means over a rank's samples."""

import dataclasses
import typing

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

STEPS, BATCH, WIDTH = 12, 12, 5
SGD = {"name": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
ADAM = {"name": "Adam", "lr": 0.01, "betas": [0.8, 0.95], "weight_decay": 0.01}
CASES = {}


def uniform(*shape):
    return torch.rand(STEPS, BATCH, *shape) * 2 - 1


class Model(nn.Module):
    """DistributedDataParallel sees forward() only: it calls what it is given."""

    def forward(self, part, *inputs):
        return part(self, *inputs)


class Net(Model):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH) for _ in range(4))


@dataclasses.dataclass
class Case:
    name: str
    step: typing.Callable
    model: type = Net
    inputs: typing.Callable = lambda: {"x": uniform(WIDTH), "y": uniform(WIDTH)}
    optimizer: dict = dataclasses.field(default_factory=lambda: SGD)
    parts: tuple = ("",)  # submodules with a DistributedDataParallel and an optimizer each
    ranks: tuple = (2, 3)
    samples: dict = dataclasses.field(default_factory=dict)  # of each rank, where they differ
    steps_of: typing.Callable = lambda rank: STEPS
    divide_by_initial_world_size: bool | None = None  # of Join
    prepare: typing.Callable = lambda model, step: None  # before each step
    wrap_again_at: int | None = None
    ddp: dict = dataclasses.field(default_factory=dict)

    def samples_of(self, ranks):
        return self.samples.get(ranks, [BATCH // ranks] * ranks)


def case(zero_grad_every=1, clip=None, **options):
    """A case named after its function, which makes a step's backward passes."""

    def add(passes):
        def step(run, share):
            optimizer, = run.optimizers.values()
            if share.step % zero_grad_every == 0:
                optimizer.zero_grad()
            passes(run, share)
            if clip:
                nn.utils.clip_grad_norm_(run.module.parameters(), clip)
            optimizer.step()

        name = passes.__name__
        CASES[name] = Case(name, step if "parts" not in options else passes, **options)
        return passes

    return add


UNUSED = {"ddp": {"find_unused_parameters": True}}


def squares(y):
    return y.square().mean()


def a_and_d(share):
    return lambda net: squares(net(lambda m: m.d(torch.tanh(m.a(share["x"])))))


def all_four(share):
    return lambda net: squares(net(lambda m: m.d(m.c(m.b(torch.tanh(m.a(share["x"])))))))


@case()
def shared_encoder(run, share):
    def loss(m):
        one, two = torch.tanh(m.a(share["x"])), torch.tanh(m.a(share["y"]))
        return squares(m.b(one) - m.c(two)) + squares(m.d(one))

    run.backward(share, lambda net: net(loss))


# Odd steps: another expert on each rank. Even steps: all have the same one.
@case(**UNUSED)
def another_branch_on_each_rank(run, share):
    def loss(m):
        expert = [m.b, m.c, m.d][(share.step + share.rank * (share.step % 2)) % 3]
        return squares(expert(torch.tanh(m.a(share["x"]))))

    run.backward(share, lambda net: net(loss))


def freeze_backbone(frozen):
    return lambda model, step: model.a.requires_grad_(not frozen(step))


# PyTorch wants its DistributedDataParallel made anew when another set of parameters is trained.
@case(prepare=freeze_backbone(lambda step: step < 5), wrap_again_at=5, ranks=(1, 2, 3))
def frozen_then_thawed(run, share):
    run.backward(share, all_four(share))


@case(prepare=freeze_backbone(lambda step: 4 <= step < 8), **UNUSED)
def frozen_for_a_while(run, share):
    run.backward(share, all_four(share))


@case(**UNUSED)
def two_losses_two_backwards(run, share):
    run.backward(share, a_and_d(share), last=False)
    run.backward(share, lambda net: squares(net(lambda m: m.b(torch.tanh(m.a(share["y"]))))))


@case(ranks=(1, 2, 3), **UNUSED)
def a_second_backward_now_and_then(run, share):
    twice = share.step % 3 == 1
    run.backward(share, a_and_d(share), last=not twice)
    if twice:
        run.backward(share, lambda net: squares(net(lambda m: m.b(m.a(share["y"])))))


class Mlp(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.hidden, self.output = nn.Linear(inputs, 6), nn.Linear(6, outputs)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(x)))


class Gan(Model):
    def __init__(self):
        super().__init__()
        self.generator, self.critic = Mlp(WIDTH, WIDTH), Mlp(WIDTH, 1)


def judged(y, real):
    return binary_cross_entropy_with_logits(y, torch.full_like(y, float(real)))


@case(model=Gan, parts=("generator", "critic"),
      inputs=lambda: {name: uniform(WIDTH) for name in ("real", "noise", "more_noise")})
def gan(run, share):
    generator, critic = run.nets["generator"], run.nets["critic"]
    run.optimizers["critic"].zero_grad()
    made = generator(share["noise"]).detach()
    run.backward(share, lambda net: judged(net(share["real"]), True) + judged(net(made), False), part="critic")
    run.optimizers["critic"].step()
    run.optimizers["generator"].zero_grad()
    run.backward(share, lambda net: judged(critic(net(share["more_noise"])), True), part="generator")
    run.optimizers["generator"].step()


@case()
def gradient_penalty(run, share):
    def loss(net):
        x = share["x"].requires_grad_()
        y = net(lambda m: m.d(torch.tanh(m.c(torch.tanh(m.b(torch.tanh(m.a(x))))))))
        slope, = torch.autograd.grad(y.sum(), x, create_graph=True)
        return squares(y) + squares(slope.norm(dim=1) - 1)

    run.backward(share, loss)


@case(**UNUSED)
def unused_from_step_5_on(run, share):
    def loss(m):
        y = m.d(torch.tanh(m.a(share["x"])))
        return squares(y + m.c(share["y"]) if share.step < 5 else y)

    run.backward(share, lambda net: net(loss))


@case(ranks=(1, 2, 3), **UNUSED)
def used_from_step_5_on(run, share):
    def loss(m):
        y = m.d(torch.tanh(m.a(share["x"])))
        return squares(y + m.c(share["y"]) if share.step >= 5 else y)

    run.backward(share, lambda net: net(loss))


# Two heads, of which one has a loss, and which one changes.
@case(**UNUSED)
def outputs_without_a_loss(run, share):
    def loss(net):
        heads = net(lambda m: [head(torch.tanh(m.a(share["x"]))) for head in (m.b, m.c)])
        return squares(heads[share.step // 2 % 2])

    run.backward(share, loss)


# PyTorch's DistributedDataParallel takes what the last forward() did not use for unused, and fails.
@case(ranks=(1,))
def two_forwards_one_backward(run, share):
    def loss(net):
        one = net(lambda m: m.b(torch.tanh(m.a(share["x"]))))
        two = net(lambda m: m.c(torch.tanh(m.a(share["y"]))))
        return squares(one) + squares(two) + squares(one - two)

    run.backward(share, loss)


class Recurrent(Model):
    def __init__(self):
        super().__init__()
        self.lstm, self.output = nn.LSTM(3, WIDTH, num_layers=2, batch_first=True), nn.Linear(WIDTH, 2)


@case(model=Recurrent, optimizer=ADAM, clip=0.1, inputs=lambda: {"x": uniform(4, 3), "y": uniform(2)})
def lstm(run, share):
    run.backward(share, lambda net: mse_loss(net(lambda m: m.output(m.lstm(share["x"])[0][:, -1])),
                                             share["y"]))


class Tied(Model):
    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, 7)
        self.output.weight = self.embedding.weight


@case(model=Tied, optimizer=ADAM,
      inputs=lambda: {name: torch.randint(7, (STEPS, BATCH)) for name in ("tokens", "labels")})
def tied_weights(run, share):
    def logits(m):
        return m.output(torch.tanh(m.hidden(m.embedding(share["tokens"]))))

    run.backward(share, lambda net: cross_entropy(net(logits), share["labels"]))


@case()
def used_twice(run, share):
    def loss(m):
        return squares(m.d(m.c(m.b(m.a(torch.tanh(m.a(share["x"])))))))

    run.backward(share, lambda net: net(loss))


@case()
def recomputed(run, share):
    def loss(m):
        hidden = torch.tanh(m.a(share["x"]))
        hidden = checkpoint(lambda h: torch.tanh(m.c(torch.tanh(m.a(m.b(h))))), hidden,
                            use_reentrant=False)
        return squares(m.d(hidden))

    run.backward(share, lambda net: net(loss))


# Parameters that a loss reads outside the model's forward.
@case()
def penalty_on_parameters(run, share):
    def loss(net):
        y = net(lambda m: m.d(m.c(m.b(torch.tanh(m.a(share["x"]))))))
        return squares(y) + 0.1 * sum(squares(p) for p in run.module.parameters())

    run.backward(share, loss)


# Two micro-batches, of which the first alone uses b and the second alone c.
@case(**UNUSED)
def accumulation(run, share):
    for index in range(2):
        micro = share.part(index, 2)
        run.backward(share, lambda net: 0.5 * net(
            lambda m: squares([m.b, m.c][index](m.d(torch.tanh(m.a(micro["x"])))))), last=index == 1)


# Rank r makes r + 1 backward passes.
@case(**UNUSED)
def another_number_of_passes_on_each_rank(run, share):
    for index in range(run.rank + 1):
        micro = share.part(index, run.rank + 1)
        run.backward(share, a_and_d(micro), last=index == run.rank)


@case(zero_grad_every=3, **UNUSED)
def gradients_kept_for_three_steps(run, share):
    def loss(m):
        y = m.d(torch.tanh(m.a(share["x"])))
        return squares(y + m.c(share["y"]) if share.step % 3 == 0 else y)

    run.backward(share, lambda net: net(loss))


# The mean over the ranks' means, which is PyTorch's, and the mean over all samples, which its
# DistributedDataParallel does not have.
@case(ranks=(1, 2, 3), samples={2: [8, 4], 3: [7, 4, 1]})
def uneven_batches(run, share):
    run.backward(share, all_four(share))


# Join: rank r has data for 12 - 4 r steps. The gradients of ranks that have ended are zeros, or not counted.
@case(steps_of=lambda rank: STEPS - 4 * rank, divide_by_initial_world_size=True)
def ends_early_mean_over_all_ranks(run, share):
    run.backward(share, all_four(share))


@case(steps_of=lambda rank: STEPS - 4 * rank, divide_by_initial_world_size=False)
def ends_early_mean_over_ranks_with_data(run, share):
    run.backward(share, all_four(share))
