"""More arguments of the ops: negative dimensions, lists and numbers, unbatched images, extremes, f32."""

import math

import torch

from recorded_ops import BOOL, F32, F64, I64, draw, drawn, positive

EXTREMES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 1e-300, 1.0, -1.0]


def extremes(r):
    for name in ("exp", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "gelu", "silu", "softplus", "sign",
                 "floor", "erf", "logsigmoid", "elu", "hardtanh", "abs", "reciprocal", "mish", "softsign"):
        function = getattr(torch.nn.functional, name, None) or getattr(torch, name)
        attributes = {"gelu": {"approximate": "none"}, "softplus": {"beta": 1.0, "threshold": 20.0},
                      "elu": {"alpha": 1.0}, "hardtanh": {"min_val": -1.0, "max_val": 1.0}}.get(name)
        r.op(name, lambda: {"input": torch.tensor(EXTREMES, dtype=F64)}, attributes, gradients=False,
             call=lambda t, a: function(t["input"], **a))
    pairs = lambda: dict(zip(("input", "other"), (torch.tensor(EXTREMES[:6], dtype=F64).repeat_interleave(6),
                                                  torch.tensor(EXTREMES[:6], dtype=F64).repeat(6))))
    for name in ("add", "mul", "maximum", "minimum", "atan2", "fmod", "remainder", "eq", "lt", "ge", "ne"):
        r.op(name, pairs, {"alpha": 1} if name == "add" else None, gradients=False)
    r.op("div", pairs, {"rounding_mode": None}, gradients=False)
    r.op("pow", lambda: {"input": pairs()["input"], "exponent": pairs()["other"]}, gradients=False)
    with_nan = lambda: {"input": torch.tensor([[1.0, math.nan, 2.0], [math.inf, -math.inf, 0.0], [3.0, 3.0, -math.inf]])}
    for name in ("sum", "mean", "amax", "amin", "logsumexp", "max", "min"):
        r.op(name, with_nan, {"dim": 1 if name in ("max", "min") else [1], "keepdim": False}, gradients=False)
    for name in ("argmax", "argmin"):
        r.op(name, with_nan, {"dim": None, "keepdim": False})
    r.op("sort", with_nan, {"dim": 1, "descending": True, "stable": True}, gradients=False)
    r.op("topk", with_nan, {"dim": 1, "k": 2, "largest": True, "sorted": True}, gradients=False)
    for p in (0.0, 1.0, 2.0, 3.5, math.inf, -math.inf):
        r.op("norm", with_nan, {"dim": [1], "keepdim": False, "p": p}, gradients=False)
        r.op("norm", drawn((2, 3)), {"dim": [0, 1], "keepdim": True, "p": p})
    r.op("norm", lambda: {"input": torch.zeros(2, 3)}, {"dim": [1], "keepdim": False, "p": 2.0})
    r.op("clamp", with_nan, {"min": -1.0, "max": 1.0}, gradients=False)
    for name in ("softmax", "log_softmax"):
        r.op(name, with_nan, {"dim": 1}, gradients=False)
        r.op(name, lambda: {"input": torch.tensor([[1e4, -1e4, 0.0], [-math.inf, 1.0, 2.0]])}, {"dim": -1}, gradients=False)
        r.op(name, drawn(()), {"dim": 0})
        r.op(name, drawn((0, 3)), {"dim": 1})
    r.op("cumprod", lambda: {"input": torch.tensor([[2.0, 0.0, 3.0, 0.0, 1.5]])}, {"dim": 1})
    r.op("prod", lambda: {"input": torch.tensor([[2.0, 0.0, 3.0], [0.0, 0.0, 1.5]])}, {"dim": None, "keepdim": False})


def reductions(r):
    for name in ("sum", "mean", "amax", "amin", "logsumexp", "std", "var", "norm", "all", "any"):
        extra = {"std": {"correction": 0}, "var": {"correction": 1}, "norm": {"p": 2.0}}.get(name, {})
        dtype = BOOL if name in ("all", "any") else F32
        for dims, keep in (([-2], True), ([0, 2], False), ([-1, 0], True)):
            r.op(name, drawn((2, 3, 4), dtype), {"dim": dims, "keepdim": keep, **extra})
        if name != "logsumexp":
            r.op(name, drawn((), dtype), {"dim": None, "keepdim": False, **extra})
        r.op(name, drawn((3, 0, 2), dtype), {"dim": [0], "keepdim": True, **extra})
    for name in ("max", "min", "prod"):
        r.op(name, drawn((2, 3, 4), F32), {"dim": -2, "keepdim": True})
    for name in ("argmax", "argmin"):
        r.op(name, drawn((2, 3, 4), F32), {"dim": -3, "keepdim": True})
        r.op(name, drawn(()), {"dim": None, "keepdim": False})
    for name in ("cumsum", "cumprod"):
        r.op(name, drawn((2, 3), F32), {"dim": -1})
        r.op(name, drawn(()), {"dim": 0})
    for descending in (False, True):
        r.op("sort", drawn((4, 3), F32), {"dim": -2, "descending": descending, "stable": True})
    r.op("topk", drawn((4, 3), F32), {"dim": -2, "k": 3, "largest": False, "sorted": True})


def shapes(r):
    r.op("transpose", drawn((2, 3, 4), F32), {"dim0": -1, "dim1": -3})
    r.op("permute", drawn((2, 3, 4), F32), {"dims": [-1, 0, -2]})
    r.op("squeeze", drawn((1, 3, 1), F32), {"dim": [0, 1, -1]})
    r.op("unsqueeze", drawn((2, 3), F32), {"dim": -3})
    r.op("expand", drawn((3, 1), F32), {"size": [2, -1, 4]})
    r.op("expand", drawn((1, 3), F32), {"size": [0, 3]})
    r.op("flip", drawn((2, 3, 4), I64), {"dims": [-1, 0, 1]})
    r.op("roll", drawn((3, 4), F32), {"shifts": [5, -7], "dims": [-1, 0]})
    r.op("narrow", drawn((5, 2), F32), {"dim": -2, "start": -3, "length": 2})
    r.op("pad", drawn((2, 3), F32), {"pad": [1, -1, 2, 0], "mode": "constant", "value": -math.inf}, gradients=False)
    r.op("pad", drawn((2, 5), F32), {"pad": [4, 1], "mode": "reflect", "value": 0.0})
    r.op("pad", drawn((2, 3), I64), {"pad": [1, 1], "mode": "constant", "value": 7})
    r.op("tril", drawn((2, 3, 4), F32), {"diagonal": -2})
    r.op("triu", drawn((4, 3), F32), {"diagonal": 5})
    r.op("repeat", drawn((3,), F32), {"repeats": [2, 0, 2]})
    r.op("repeat_interleave", lambda: {"input": draw(3, dtype=F32), "repeats": torch.tensor([2, 0, 1])}, {"dim": None})
    r.op("repeat_interleave", drawn((2, 3)), {"dim": -1, "repeats": 2})
    r.op("split", drawn((2, 7), F32, name="tensor"), {"split_size_or_sections": 3, "dim": -1})
    r.op("chunk", drawn((7, 2), F32), {"chunks": 5, "dim": -2})
    r.op("stack", lambda: {"tensors": [draw(2, 0) for _ in range(3)]}, {"dim": -1})
    r.op("cat", lambda: {"tensors": [draw(0), draw(2, 3), draw(1, 3)]}, {"dim": -2})
    r.op("reshape", drawn((0, 3)), {"shape": [3, 0, 2]})
    r.op("gather", lambda: {"input": draw(3, 4, dtype=F32), "index": torch.randint(0, 4, (2, 6))}, {"dim": -1},
         call=lambda t, a: torch.gather(t["input"], a["dim"], t["index"]))
    r.op("index_select", lambda: {"input": draw(3, 4, dtype=I64), "index": torch.tensor([3, 3, 0])}, {"dim": -1},
         call=lambda t, a: torch.index_select(t["input"], a["dim"], t["index"]))
    r.op("scatter_add", lambda: {"input": draw(3, 4, dtype=F32), "index": torch.randint(0, 3, (5, 2)),
                                 "src": draw(5, 2, dtype=F32)}, {"dim": -2},
         call=lambda t, a: torch.scatter_add(t["input"], a["dim"], t["index"], t["src"]))
    r.op("masked_fill", lambda: {"input": draw(3, 1, dtype=F32), "mask": draw(4, dtype=BOOL)}, {"value": 0.5})
    r.op("one_hot", lambda: {"input": torch.tensor(3)}, {"num_classes": 6})
    r.op("embedding", lambda: {"input": torch.tensor([[0, 3], [3, 1]]), "weight": draw(4, 2)}, {"padding_idx": -1})
    for equation, shapes in (("...ij,...jk->...ik", [(2, 1, 2, 3), (4, 3, 2)]), ("ii->i", [(3, 3)]), ("ij,ij->", [(2, 3)] * 2),
                             ("bij,bj,bi->b", [(2, 3, 4), (2, 4), (2, 3)]), ("ij", [(2, 3)]), ("ba", [(2, 3)]), ("i,i", [(3,)] * 2)):
        r.op("einsum", lambda: {"operands": [draw(*s) for s in shapes]}, {"equation": equation})
    for a, b in (((3,), (2, 3, 4)), ((2, 2, 3), (3,)), ((1, 2, 3), (4, 3, 2)), ((0, 3), (3, 2)), ((2, 2, 1, 3), (2, 3, 3))):
        r.op("matmul", lambda: {"input": draw(*a, dtype=F32), "other": draw(*b, dtype=F32)}, second=True)
    r.op("matmul", lambda: {"input": draw(2, 3, dtype=I64), "other": draw(3, 2, dtype=I64)})
    r.op("addmm", lambda: {"input": draw(2, 1, dtype=F32), "mat1": draw(2, 3, dtype=F32), "mat2": draw(3, 4, dtype=F32)},
         {"beta": 0.0, "alpha": 2.0})


def images(r):
    plain = lambda n: {"stride": [1] * n, "padding": [0] * n, "dilation": [1] * n, "groups": 1}
    for n, size in ((1, (7,)), (2, (5, 6)), (3, (3, 4, 4))):
        make = lambda batch: {"input": draw(*batch, 2, *size), "weight": draw(4, 2, *[2] * n), "bias": draw(4)}
        r.op(f"conv{n}d", lambda: make(()), plain(n))
        r.op(f"conv{n}d", lambda: make((2,)), {**plain(n), "stride": [2] * n, "padding": [1] * n}, second=n == 2)
        r.op(f"conv{n}d", lambda: {**make((1,)), "weight": draw(2, 1, *[3] * n), "bias": draw(2)},
             {**plain(n), "groups": 2, "padding": [1] * n})
    r.op("conv1d", lambda: {"input": draw(1, 2, 6), "weight": draw(3, 2, 4)}, {**plain(1), "padding": "same", "dilation": [1]})
    r.op("conv2d", lambda: {"input": draw(0, 2, 5, 5), "weight": draw(3, 2, 3, 3)}, plain(2))
    transposed = lambda t, a: torch.nn.functional.conv_transpose2d(t["input"], t["weight"], t.get("bias"), **a)
    for batch in ((), (2,)):
        r.op("conv_transpose2d", lambda: {"input": draw(*batch, 2, 3, 4), "weight": draw(2, 3, 3, 2), "bias": draw(3)},
             {**plain(2), "stride": [2, 3], "padding": [1, 0], "output_padding": [1, 2], "dilation": [2, 1]}, call=transposed)
    pool = {"kernel_size": [3, 2], "stride": None, "padding": [1, 1], "ceil_mode": True}
    r.op("max_pool2d", drawn((3, 5, 6)), {**pool, "dilation": [1, 2]})
    r.op("avg_pool2d", drawn((3, 5, 6)), {**pool, "count_include_pad": False, "divisor_override": None})
    r.op("avg_pool2d", drawn((1, 2, 5, 6)), {**pool, "count_include_pad": True, "divisor_override": 5})
    r.op("adaptive_avg_pool2d", drawn((3, 5, 7)), {"output_size": [2, 9]})
    r.op("unfold", drawn((2, 5, 6), F32), {"kernel_size": [2, 2], "dilation": [2, 1], "padding": [1, 0], "stride": [1, 3]})
    for mode, corners in (("nearest", None), ("bilinear", False), ("bilinear", True)):
        r.op("interpolate", drawn((1, 2, 4, 5), F32), {"size": None, "scale_factor": [1.7, 0.6], "mode": mode, "align_corners": corners})
        r.op("interpolate", drawn((1, 1, 5, 4)), {"size": [2, 1], "scale_factor": None, "mode": mode, "align_corners": corners})


def losses(r):
    two = lambda: {"input": draw(3, 4, dtype=F32), "target": draw(3, 4, dtype=F32)}
    for reduction in ("mean", "sum", "none"):
        r.op("mse_loss", two, {"reduction": reduction})
        r.op("smooth_l1_loss", two, {"reduction": reduction, "beta": 0.0})
        r.op("huber_loss", two, {"reduction": reduction, "delta": 2.0})
        weights = {"weight": positive(4, dtype=F32), "pos_weight": positive(4, dtype=F32)}
        r.op("binary_cross_entropy_with_logits", lambda: {**two(), "target": draw(3, 4, dtype=F32, low=0, high=1), **weights},
             {"reduction": reduction}, constants=("target", "weight", "pos_weight"))
        for smoothing in (0.0, 0.3):
            options = {"ignore_index": 1, "label_smoothing": smoothing, "reduction": reduction}
            r.op("cross_entropy", lambda: {"input": draw(2, 4, 3), "target": torch.tensor([[0, 1, 3], [2, 2, 1]]),
                                           "weight": positive(4)}, options, constants=("weight",))
            r.op("cross_entropy", lambda: {"input": draw(2, 4, 3), "target": torch.softmax(draw(2, 4, 3), 1),
                                           "weight": positive(4)}, {**options, "ignore_index": -100},
                 constants=("weight",))
            r.op("cross_entropy", lambda: {"input": draw(4), "target": torch.tensor(2)}, options)
        r.op("nll_loss", lambda: {"input": draw(4), "target": torch.tensor(2), "weight": positive(4)},
             {"ignore_index": -100, "reduction": reduction}, constants=("weight",))
        r.op("kl_div", lambda: {"input": draw(3, 4).log_softmax(-1), "target": draw(3, 4).log_softmax(-1)},
             {"reduction": reduction, "log_target": True})
    r.op("cross_entropy", lambda: {"input": draw(2, 3), "target": torch.tensor([1, 1])},
         {"ignore_index": 1, "label_smoothing": 0.0, "reduction": "sum"})
    r.op("scaled_dot_product_attention",
         lambda: {"query": draw(2, 3, 4), "key": draw(2, 5, 4), "value": draw(2, 5, 6),
                  "attn_mask": torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5])},
         {"dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False})
    r.op("scaled_dot_product_attention",
         lambda: {"query": draw(1, 6, 3, 4), "key": draw(1, 2, 5, 4), "value": draw(1, 2, 5, 4), "attn_mask": draw(3, 5)},
         {"dropout_p": 0.0, "is_causal": False, "scale": 0.7, "enable_gqa": True})


def record(r):
    extremes(r)
    reductions(r)
    shapes(r)
    images(r)
    losses(r)
