"""The ops' cases that record.py writes: what the ones in cases/recorded leave out."""

import math

import torch

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
I64, I32, U8, BOOL = torch.int64, torch.int32, torch.uint8, torch.bool


def draw(*shape, dtype=F64, low=-2.0, high=2.0):
    if dtype == BOOL:
        return torch.rand(shape) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(1 if dtype == U8 else -4, 7, shape).to(dtype)
    return (torch.rand(shape, dtype=F64) * (high - low) + low).to(dtype)


def positive(*shape, dtype=F64):
    return draw(*shape, dtype=dtype, low=0.3, high=2.5)


def drawn(shape, dtype=F64, low=-2.0, high=2.0, name="input"):
    return lambda: {name: draw(*shape, dtype=dtype, low=low, high=high)}


PAIRS = [
    (BOOL, U8), (BOOL, I64), (BOOL, F32), (BOOL, BF16), (U8, I32), (U8, I64), (I32, I64), (I32, F16),
    (I64, F32), (I64, BF16), (I64, F64), (F16, BF16), (F16, F32), (BF16, F32), (F32, F64), (F64, BF16),
]
# A 0-d operand is weaker than one with dimensions, if it is not of a higher category.
ZERO_D = [(F32, F64), (BF16, F64), (I32, I64), (I64, F32), (BOOL, I64), (F16, I64), (U8, F64), (F64, F32)]


def promotion(r):
    for a, b in PAIRS:
        both = lambda: {"input": draw(2, 3, dtype=a), "other": draw(2, 3, dtype=b)}
        nonzero = lambda: {"input": draw(2, 3, dtype=a), "other": torch.ones(2, 3).to(b) + draw(2, 3, dtype=b).abs()}
        r.op("add", both, {"alpha": 1})
        r.op("mul", both)
        if BOOL not in (a, b):
            r.op("div", nonzero, {"rounding_mode": None})
            r.op("maximum", both)
        r.op("lt", both)
    for a, b in ZERO_D:
        r.op("add", lambda: {"input": draw(3, dtype=a), "other": draw(dtype=b)}, {"alpha": 1})
        r.op("mul", lambda: {"input": draw(dtype=b), "other": draw(3, dtype=a)})
        r.op("where", lambda: {"condition": draw(3, dtype=BOOL), "input": draw(3, dtype=a), "other": draw(dtype=b)})
    for a in (BOOL, U8, I64, F16, F32):
        for number in (True, 2, 1.5):
            r.op("add", drawn((4,), a), {"alpha": 1, "other": number})
            r.op("mul", drawn((4,), a), {"other": number})
            r.op("div", drawn((4,), a), {"other": number, "rounding_mode": None})
            if a != BOOL:
                r.op("pow", drawn((4,), a), {"exponent": 2 if number is True else number})
                r.op("remainder", drawn((4,), a), {"other": number})
        r.op("eq", drawn((4,), a), {"other": 1.5})
    for mode in ("floor", "trunc"):
        r.op("div", drawn((6,), I64), {"other": -3, "rounding_mode": mode})
        r.op("div", drawn((6,), I64), {"other": 2.5, "rounding_mode": mode})
        r.op("div", lambda: {"input": draw(5, dtype=I32), "other": positive(5, dtype=F32)}, {"rounding_mode": mode})
    r.op("cat", lambda: {"tensors": [draw(2, dtype=I64), draw(3, dtype=BF16), draw(2, dtype=F32)]}, {"dim": 0})
    r.op("stack", lambda: {"tensors": [draw(2, dtype=U8), draw(2, dtype=I32)]}, {"dim": 0})
    r.op("where", lambda: {"condition": draw(4, dtype=BOOL), "input": draw(4, dtype=I64)}, {"other": 1.5})
    for name in ("sum", "prod", "mean", "amax", "any"):
        for dtype in (BOOL, U8, I32, F16):
            # PyTorch's `any` of u8 is u8, for old times' sake.
            if not (name == "mean" and dtype != F16 or name == "any" and dtype == U8):
                r.op(name, drawn((2, 3), dtype), {"dim": None, "keepdim": False})
    for name in ("exp", "sqrt", "sin", "sigmoid", "reciprocal", "erf"):
        r.op(name, lambda: {"input": torch.arange(1, 5)})
        r.op(name, lambda: {"input": torch.tensor([True, False])})
    for name in ("neg", "sign", "square", "floor", "round", "trunc", "relu"):
        r.op(name, drawn((5,), I32))
    r.op("logical_and", lambda: {"input": draw(4, dtype=I64), "other": torch.tensor([0.0, 1.5, math.nan, 0.0])})
    r.op("logical_or", lambda: {"input": draw(4, dtype=I64), "other": torch.tensor([0.0, 1.5, math.nan, 0.0])})
    r.op("logical_not", lambda: {"input": torch.tensor([0, 3, -1])})
    r.op("clamp", drawn((5,), I64), {"min": -1.5, "max": 2})
    r.op("clamp", lambda: {"input": draw(5, dtype=F32), "min": draw(5), "max": draw(1)})
    r.op("masked_fill", lambda: {"input": draw(3, dtype=I64), "mask": draw(3, dtype=BOOL)}, {"value": 2})
    for dtype in (I32, U8, BOOL, BF16):
        r.op("to", lambda: {"input": torch.tensor([0.0, 1.0, 2.75, 100.5])}, {"dtype": dtype}, tolerance=("0", "0"))
    r.op("to", drawn((5,), BF16), {"dtype": F16}, tolerance=("0", "0"))


UNARY = {
    "abs": (-2, 2), "acos": (-0.9, 0.9), "asin": (-0.9, 0.9), "atan": (-2, 2), "celu": (-2, 2), "cos": (-2, 2),
    "cosh": (-2, 2), "elu": (-2, 2), "erf": (-2, 2), "erfc": (-2, 2), "exp": (-2, 2), "expm1": (-1, 1),
    "gelu": (-2, 2), "hardsigmoid": (-2, 2), "hardswish": (-2, 2), "leaky_relu": (-2, 2), "log": (0.3, 3),
    "log1p": (-0.5, 2), "log2": (0.3, 3), "logsigmoid": (-2, 2), "mish": (-2, 2), "reciprocal": (0.5, 2),
    "relu": (-2, 2), "rsqrt": (0.3, 3), "selu": (-2, 2), "sigmoid": (-2, 2), "silu": (-2, 2), "sin": (-2, 2),
    "sinh": (-2, 2), "softplus": (-2, 2), "softsign": (-2, 2), "sqrt": (0.3, 3), "square": (-2, 2),
    "tan": (-1, 1), "tanh": (-2, 2), "round": (-3, 3), "floor": (-3, 3),
}
UNARY_ATTRIBUTES = {
    "celu": {"alpha": 1.3}, "elu": {"alpha": 0.7}, "gelu": {"approximate": "tanh"},
    "leaky_relu": {"negative_slope": 0.1}, "softplus": {"beta": 1.5, "threshold": 2.0},
}


def unary(name):
    function = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    return lambda t, a: function(t["input"], **a)


def low_precision(r):
    for name, (low, high) in UNARY.items():
        r.op(name, drawn((3, 5), BF16, low, high), UNARY_ATTRIBUTES.get(name), call=unary(name))
        if name in ("exp", "gelu", "log", "silu", "softplus", "tanh", "mish", "rsqrt"):
            r.op(name, drawn((4,), F16, low, high), UNARY_ATTRIBUTES.get(name), call=unary(name))
    for dtype in (BF16, F16):
        two = lambda *a, **k: {"input": draw(*a, dtype=dtype), "other": draw(*k["b"], dtype=dtype)}
        r.op("add", lambda: two(2, 3, b=(3,)), {"alpha": -0.5})
        r.op("mul", lambda: two(2, 1, 3, b=(2, 1)))
        r.op("div", lambda: {"input": draw(2, 3, dtype=dtype), "other": positive(3, dtype=dtype)}, {"rounding_mode": None})
        r.op("pow", lambda: {"input": positive(2, 3, dtype=dtype)}, {"exponent": 1.7})
        r.op("matmul", lambda: two(2, 3, 8, b=(8, 4)), tolerance=("3e-2", "5e-2"))
        r.op("sum", drawn((3, 20), dtype), {"dim": [-1], "keepdim": False}, tolerance=("2e-2", "5e-2"))
        r.op("mean", drawn((3, 20), dtype), {"dim": [0], "keepdim": True})
        r.op("var", drawn((3, 8), dtype), {"dim": [-1], "correction": 1, "keepdim": False})
        r.op("logsumexp", drawn((3, 8), dtype), {"dim": [1], "keepdim": False})
        r.op("cumsum", drawn((3, 6), dtype), {"dim": 1}, tolerance=("3e-2", "5e-2"))
        r.op("softmax", drawn((3, 6), dtype), {"dim": -1})
        r.op("log_softmax", drawn((3, 6), dtype), {"dim": 0})
        norm = lambda: {"input": draw(3, 8, dtype=dtype), "weight": positive(8, dtype=dtype), "bias": draw(8, dtype=dtype)}
        r.op("layer_norm", norm, {"normalized_shape": [8], "eps": 1e-5}, tolerance=("4e-2", "6e-2"))
        r.op("rms_norm", lambda: {k: v for k, v in norm().items() if k != "bias"},
             {"normalized_shape": [8], "eps": 1e-5}, tolerance=("4e-2", "6e-2"))
        r.op("linear", lambda: {"input": draw(2, 6, dtype=dtype), "weight": draw(3, 6, dtype=dtype),
                                "bias": draw(3, dtype=dtype)}, tolerance=("3e-2", "5e-2"))
        r.op("conv2d", lambda: {"input": draw(1, 2, 5, 5, dtype=dtype), "weight": draw(3, 2, 3, 3, dtype=dtype),
                                "bias": draw(3, dtype=dtype)},
             {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}, tolerance=("4e-2", "1e-1"))
        r.op("max_pool2d", drawn((1, 2, 4, 6), dtype), {"kernel_size": [2, 2], "stride": None, "padding": [0, 0],
                                                        "dilation": [1, 1], "ceil_mode": False})
        r.op("cross_entropy", lambda: {"input": draw(4, 5, dtype=dtype), "target": torch.tensor([0, 3, 1, 4])},
             {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"})
        r.op("mse_loss", lambda: {"input": draw(4, dtype=dtype), "target": draw(4, dtype=dtype)}, {"reduction": "mean"})
        r.op("embedding", lambda: {"input": torch.tensor([1, 0, 3]), "weight": draw(4, 3, dtype=dtype)}, {"padding_idx": None})
        r.op("sort", drawn((2, 6), dtype), {"dim": -1, "descending": True, "stable": True}, gradients=False)
        r.op("scaled_dot_product_attention",
             lambda: {k: draw(1, 2, 4, 8, dtype=dtype) for k in ("query", "key", "value")},
             {"dropout_p": 0.0, "is_causal": True, "scale": None, "enable_gqa": False}, tolerance=("4e-2", "6e-2"))


def windows(r):
    """Strided, stepped and overlapping inputs."""
    transposed = lambda *s: draw(*reversed(s)).permute(*reversed(range(len(s))))
    stepped = lambda *s: draw(*(2 * n + 1 for n in s))[tuple(slice(1, None, 2) for _ in s)]
    repeated = lambda n, *s: draw(1, *s).expand(n, *s)
    overlapping = lambda rows, width: draw(rows + width - 1).as_strided((rows, width), (1, 1))
    for make in (transposed, stepped, repeated):
        one = lambda: {"input": make(3, 4)}
        for name in ("exp", "relu", "gelu"):
            r.op(name, one, {"approximate": "none"} if name == "gelu" else None, call=unary(name))
        r.op("mul", lambda: {"input": make(3, 4), "other": overlapping(3, 4)}, second=True)
        for name in ("sum", "mean", "amax", "prod"):
            r.op(name, one, {"dim": 1 if name == "prod" else [1], "keepdim": False})
        r.op("var", one, {"dim": [0], "correction": 0, "keepdim": True})
        r.op("cumsum", one, {"dim": 0})
        r.op("softmax", one, {"dim": 0}, second=True)
        r.op("matmul", lambda: {"input": make(3, 4), "other": transposed(4, 5)}, second=True)
        r.op("linear", lambda: {"input": make(2, 4), "weight": transposed(3, 4), "bias": stepped(3)})
        r.op("layer_norm", lambda: {"input": make(3, 6), "weight": stepped(6), "bias": draw(6)},
             {"normalized_shape": [6], "eps": 1e-5}, second=True)
        r.op("sort", one, {"dim": 1, "descending": False, "stable": True})
        r.op("topk", one, {"dim": -1, "k": 2, "largest": True, "sorted": True})
        r.op("reshape", one, {"shape": [2, 6]})
        r.op("cat", lambda: {"tensors": [make(3, 4), overlapping(2, 4)]}, {"dim": 0})
        r.op("gather", lambda: {"input": make(3, 4), "index": torch.tensor([[0, 1], [2, 0], [1, 2]]).t()}, {"dim": 0},
             call=lambda t, a: torch.gather(t["input"], a["dim"], t["index"]))
        r.op("masked_select", lambda: {"input": make(3, 4), "mask": draw(4, 3, dtype=BOOL).t()})
        r.op("cross_entropy", lambda: {"input": make(3, 4), "target": torch.tensor([0, 9, 2, 9, 3])[::2]},
             {"ignore_index": -100, "label_smoothing": 0.1, "reduction": "mean"})
    r.op("where", lambda: {"condition": draw(4, 3, dtype=BOOL).t(), "input": overlapping(3, 4), "other": repeated(3, 4)})
    r.op("bmm", lambda: {"input": overlapping(4, 6).reshape(2, 2, 6).expand(2, 2, 6), "mat2": repeated(2, 6, 3)})
    channels_last = lambda *s: draw(*s).contiguous(memory_format=torch.channels_last)
    r.op("conv2d", lambda: {"input": channels_last(2, 3, 5, 6), "weight": channels_last(4, 3, 3, 3), "bias": draw(4)},
         {"stride": [2, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}, second=True)
    r.op("conv1d", lambda: {"input": transposed(2, 3, 8), "weight": stepped(4, 3, 3)},
         {"stride": [1], "padding": [1], "dilation": [1], "groups": 1})
    r.op("max_pool2d", lambda: {"input": channels_last(2, 3, 5, 6)},
         {"kernel_size": [3, 3], "stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "ceil_mode": False})
    r.op("avg_pool2d", lambda: {"input": transposed(2, 3, 4, 6)},
         {"kernel_size": [2, 2], "stride": None, "padding": [0, 0], "ceil_mode": False, "count_include_pad": True,
          "divisor_override": None})
    r.op("batch_norm", lambda: {"input": channels_last(3, 4, 2, 5), "weight": stepped(4), "bias": draw(4)},
         {"training": True, "momentum": 0.1, "eps": 1e-5}, second=True)
    r.op("group_norm", lambda: {"input": channels_last(2, 4, 3, 2), "weight": draw(4), "bias": draw(4)},
         {"num_groups": 2, "eps": 1e-5}, call=lambda t, a: torch.nn.functional.group_norm(
             t["input"], a["num_groups"], t["weight"], t["bias"], a["eps"]))
    r.op("interpolate", lambda: {"input": channels_last(1, 2, 3, 4)},
         {"size": [5, 7], "scale_factor": None, "mode": "bilinear", "align_corners": False})
    heads = lambda: draw(2, 5, 3, 4).transpose(1, 2)
    r.op("scaled_dot_product_attention", lambda: {"query": heads(), "key": heads(), "value": heads()},
         {"dropout_p": 0.0, "is_causal": True, "scale": None, "enable_gqa": False})
    r.op("embedding", lambda: {"input": torch.tensor([[0, 1, 2], [3, 4, 0]]).t(), "weight": transposed(5, 4)}, {"padding_idx": None})


def record(r):
    import recorded_arguments

    promotion(r)
    low_precision(r)
    windows(r)
    recorded_arguments.record(r)
