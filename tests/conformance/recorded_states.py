"""The modules', optimizers' and schedules' cases that record.py writes."""

import torch

F64 = torch.float64


def module(r, name, attributes, inputs, *, forward=None, training=True, make=None):
    """`inputs` are shapes, or functions that draw a tensor; "hx" may be a list of them."""
    path = r.numbered("module", name)
    if path is None:
        return
    built = (make or getattr(torch.nn, name))(**attributes).to(F64).train(training)
    for tensor in [*built.parameters(), *built.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 1.2) if "var" in name else tensor.data.uniform_(-0.9, 0.9)
    for key, buffer in built.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.3, 1.5)
    tensors = {f"state.{key}": value.clone() for key, value in built.state_dict().items()}
    drawn = {}
    for key, shape in inputs.items():
        value = shape() if callable(shape) else torch.randn(shape, dtype=F64)
        drawn[key] = value.requires_grad_() if value.is_floating_point() else value
    arguments = dict(drawn)
    if "hx.0" in arguments:
        arguments["hx"] = (arguments.pop("hx.0"), arguments.pop("hx.1"))
    tensors.update({f"in.{key}": value.detach().clone() for key, value in drawn.items()})
    from record import outputs_of
    first = [arguments.pop("input")] if "input" in arguments else []
    outputs = outputs_of(built(*first, **arguments, **(forward or {})))
    tensors.update({f"out.{i}": output.detach().clone() for i, output in enumerate(outputs)})
    tensors.update({f"state_after.{key}": value.clone() for key, value in built.named_buffers()})
    leaves = {key: value for key, value in drawn.items() if value.requires_grad}
    r.add_gradients(tensors, outputs, leaves, state=dict(built.named_parameters()))
    saved = {**attributes, "training": training, **({"forward": forward} if forward else {})}
    r.write(path, "module", name, saved, tensors, ("1e-8", "1e-10"))


def modules(r):
    norm = {"num_features": 3, "eps": 1e-5, "momentum": 0.2, "affine": True, "track_running_stats": True}
    for changes in ({"affine": False}, {"track_running_stats": False}, {"momentum": None}):
        for training in (True, False):
            module(r, "BatchNorm1d", {**norm, **changes}, {"input": (4, 3, 5)}, training=training)
    module(r, "BatchNorm2d", {**norm, "affine": False}, {"input": (2, 3, 2, 4)})
    rnn = {"input_size": 3, "hidden_size": 2, "num_layers": 2, "bias": True, "batch_first": True, "dropout": 0.0,
           "bidirectional": True}
    for name in ("RNN", "LSTM", "GRU"):
        extra = {"nonlinearity": "relu"} if name == "RNN" else {}
        state = lambda *shape: {"hx.0": shape, "hx.1": shape} if name == "LSTM" else {"hx": shape}
        module(r, name, {**rnn, **extra}, {"input": (2, 4, 3), **state(4, 2, 2)})
        module(r, name, {**rnn, **extra, "bias": False, "batch_first": False}, {"input": (4, 2, 3)})
        module(r, name, {**rnn, **extra, "num_layers": 1, "bidirectional": False}, {"input": (4, 3), **state(1, 2)})
    attention = {"embed_dim": 6, "num_heads": 2, "dropout": 0.0, "bias": True, "batch_first": True}
    three = {"query": (2, 3, 6), "key": (2, 4, 6), "value": (2, 4, 6)}
    padding = lambda: torch.tensor([[False, True, False, False], [False, False, False, True]])
    module(r, "MultiheadAttention", attention, three, forward={"need_weights": True})
    module(r, "MultiheadAttention", attention, {**three, "key_padding_mask": padding},
           forward={"need_weights": True, "average_attn_weights": False})
    module(r, "MultiheadAttention", {**attention, "batch_first": False},
           {"query": (3, 2, 6), "key": (4, 2, 6), "value": (4, 2, 6), "attn_mask": (3, 4)}, forward={"need_weights": False})
    module(r, "MultiheadAttention", attention, {"query": (3, 6), "key": (4, 6), "value": (4, 6)}, forward={"need_weights": False})
    module(r, "MultiheadAttention", attention,
           {**three, "attn_mask": lambda: torch.rand(4, 3, 4) < 0.3, "key_padding_mask": lambda: torch.tensor([[False] * 4] * 2)},
           forward={"need_weights": False})
    layer = {"d_model": 6, "nhead": 2, "dim_feedforward": 5, "dropout": 0.0, "activation": "gelu", "layer_norm_eps": 1e-5,
             "batch_first": True, "norm_first": False, "bias": True}
    module(r, "TransformerEncoderLayer", {**layer, "bias": False}, {"src": (2, 4, 6)})
    module(r, "TransformerEncoderLayer", {**layer, "norm_first": True}, {"src": (2, 4, 6), "src_key_padding_mask": padding})
    module(r, "TransformerEncoderLayer", {**layer, "batch_first": False, "activation": "relu"},
           {"src": (4, 2, 6), "src_mask": (4, 4)})
    module(r, "TransformerEncoderLayer", layer, {"src": (4, 6)})
    image = {"in_channels": 2, "out_channels": 4, "kernel_size": [3, 2], "stride": [1, 2], "padding": [1, 0], "dilation": [1, 1],
             "groups": 2, "bias": False, "padding_mode": "zeros"}
    module(r, "Conv2d", image, {"input": (2, 5, 6)})
    module(r, "ConvTranspose2d", {**image, "output_padding": [0, 1]}, {"input": (1, 2, 3, 4)})
    module(r, "Conv1d", {**image, "kernel_size": [3], "stride": [2], "padding": [1], "dilation": [1]}, {"input": (2, 2, 7)})
    module(r, "LayerNorm", {"normalized_shape": [3], "eps": 1e-5, "elementwise_affine": False, "bias": True}, {"input": (2, 3)})
    module(r, "RMSNorm", {"normalized_shape": [2, 3], "eps": None, "elementwise_affine": False}, {"input": (4, 2, 3)})
    module(r, "GroupNorm", {"num_groups": 1, "num_channels": 4, "eps": 1e-5, "affine": False}, {"input": (2, 4, 3)})
    module(r, "Embedding", {"num_embeddings": 5, "embedding_dim": 3, "padding_idx": -1},
           {"input": lambda: torch.tensor([[0, 4], [2, 2]])})
    module(r, "Dropout", {"p": 0.0}, {"input": (2, 3)})
    module(r, "Linear", {"in_features": 3, "out_features": 2, "bias": True}, {"input": (3,)})


def optimizer(r, name, attributes, *, groups=None, missing=(), steps=4, shapes=((), (3,), (2, 3)), dtype=F64):
    """`missing`: (parameter, step) without a gradient."""
    path = r.numbered("optimizer", name)
    if path is None:
        return
    parameters = [torch.randn(shape, dtype=F64).to(dtype).requires_grad_() for shape in shapes]
    tensors = {f"param.{i}.initial": p.detach().clone() for i, p in enumerate(parameters)}
    given = parameters
    if groups:
        given = [{**group, "params": [parameters[i] for i in group["params"]]} for group in groups]
    rule = getattr(torch.optim, name)(given, **attributes)
    for step in range(steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = None
            if (i, step) not in missing:
                parameter.grad = tensors[f"grad.{i}.{step}"] = torch.randn(parameter.shape, dtype=F64).to(dtype)
        rule.step()
        for i, parameter in enumerate(parameters):
            tensors[f"param.{i}.after.{step}"] = parameter.detach().clone()
    tensors.update({f"param.{i}.after": p.detach().clone() for i, p in enumerate(parameters)})
    saved = {**attributes, "steps": steps, **({"param_groups": groups} if groups else {})}
    wide = ("2e-2", "2e-3") if name == "Muon" else ("1e-9", "1e-11") if dtype == F64 else ("1e-5", "1e-6")
    r.write(path, "optimizer", name, saved, tensors, wide)


def optimizers(r):
    adam = {"lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-8, "weight_decay": 0.1}
    rules = {
        "Adadelta": {"lr": 0.5, "rho": 0.8, "eps": 1e-6, "weight_decay": 0.1},
        "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-10},
        "Adam": {**adam, "amsgrad": True}, "AdamW": {**adam, "amsgrad": True},
        "NAdam": {**adam, "momentum_decay": 0.01, "decoupled_weight_decay": True},
        "RAdam": {**adam, "decoupled_weight_decay": True},
        "RMSprop": {"lr": 0.01, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.5, "centered": True},
        "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.1, "nesterov": True},
    }
    for name, attributes in rules.items():
        for maximize in (True, False):
            optimizer(r, name, {**attributes, "maximize": maximize}, missing={(0, 0), (1, 0), (1, 2)})
        optimizer(r, name, {**attributes, "maximize": False}, dtype=torch.float32, steps=7 if name == "RAdam" else 4,
                  groups=[{"params": [1]}, {"params": [2, 0], "lr": 0.03, "weight_decay": 0.0}])
    optimizer(r, "Muon", {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.8, "nesterov": True, "eps": 1e-7, "ns_steps": 5,
                          "ns_coefficients": [3.4445, -4.775, 2.0315], "adjust_lr_fn": None},
              shapes=((5, 3), (3, 5)), dtype=torch.float32, missing={(1, 1)})


def schedule(r, name, attributes, steps=14, lr=0.2):
    path = r.numbered("schedule", name)
    if path is None:
        return
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    kinds = torch.optim.lr_scheduler

    def build(kind, given):
        given = dict(given)
        if "schedulers" in given:
            parts = [build(s["name"], s["attributes"]) for s in given.pop("schedulers")]
            if kind == "ChainedScheduler":
                return kinds.ChainedScheduler(parts)
            return kinds.SequentialLR(rule, parts, **given)
        return getattr(kinds, kind)(rule, **given)

    steppable, rates = build(name, attributes), []
    for step in range(steps):
        rates.append(rule.param_groups[0]["lr"])
        rule.step()
        if step + 1 < steps:
            steppable.step()
    tensors = {"learning_rate": torch.tensor([float(rate) for rate in rates], dtype=F64)}
    r.write(path, "schedule", name, {**attributes, "lr": lr, "steps": steps}, tensors, ("1e-9", "1e-12"))


def schedules(r):
    cosine = {"name": "CosineAnnealingLR", "attributes": {"T_max": 5, "eta_min": 0.02}}
    constant = {"name": "ConstantLR", "attributes": {"factor": 0.5, "total_iters": 3}}
    step = {"name": "StepLR", "attributes": {"step_size": 2, "gamma": 0.5}}
    several = {"name": "MultiStepLR", "attributes": {"milestones": [1, 4], "gamma": 0.3}}
    polynomial = {"name": "PolynomialLR", "attributes": {"total_iters": 6, "power": 1.5}}
    linear = {"name": "LinearLR", "attributes": {"start_factor": 0.2, "end_factor": 0.9, "total_iters": 4}}
    schedule(r, "SequentialLR", {"schedulers": [linear, step, polynomial], "milestones": [3, 8]})
    schedule(r, "SequentialLR", {"schedulers": [constant, cosine], "milestones": [4]}, steps=20)
    schedule(r, "SequentialLR", {"schedulers": [several, linear], "milestones": [6]})
    schedule(r, "ChainedScheduler", {"schedulers": [linear, several]})
    schedule(r, "ChainedScheduler", {"schedulers": [step, polynomial, constant]})
    schedule(r, "CosineAnnealingLR", {"T_max": 4, "eta_min": 0.3}, steps=12)
    schedule(r, "CosineAnnealingWarmRestarts", {"T_0": 1, "T_mult": 3, "eta_min": 0.0}, steps=16)
    schedule(r, "OneCycleLR", {"max_lr": 0.5, "total_steps": 13, "pct_start": 0.4, "anneal_strategy": "linear",
                               "cycle_momentum": False, "div_factor": 10.0, "final_div_factor": 50.0, "three_phase": True},
             steps=13)
    schedule(r, "PolynomialLR", {"total_iters": 5, "power": 0.5})
    schedule(r, "LinearLR", linear["attributes"])
    schedule(r, "ConstantLR", constant["attributes"])


def record(r):
    modules(r)
    optimizers(r)
    schedules(r)
