"""The fuzz entries of the torch ops and of `rng`: a function, its arguments, what is promised. See CONTRIBUTING, "Add an op"."""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from fuzz_arguments import (
    FLAG,
    REAL,
    SEED,
    Choice,
    Draw,
    Floats,
    Ids,
    Level,
    Made,
    Mask,
    Number,
    ascending,
    at_least_zero,
    share,
    time,
)  # fmt: skip
from fuzz_checks import Call, Entry, kernel, run
from fuzz_expected import philox

from ordkernels import nn, ops, rng
from ordkernels.schedules import NoiseSchedule

FINITE = ("normal", "ties", "zeros", "tiny")  # where an overflow inside a network would make every backend's result an accident
USUAL = ("normal", "ties", "zeros")
ROWS = "B D | B K D"
CONSTRAINED = Choice((True, False, "smooth"))
STEP = Number((0, 1, 7, 2**32 - 1))
TIMES = dict(limit=time, numbers=(0.0, 1.0, 0.5, 0.25, 1))


@cache
def network(kind: str, *sizes: int, dtype: torch.dtype) -> Any:
    """A small module of random weights in eval mode, and the same in fp64."""
    with torch.random.fork_rng():
        torch.manual_seed(sum(sizes))
        if kind == "mlp":
            module: Any = nn.MLPDenoiser(sizes[0], sizes[1], hidden=16, time_width=8)
        elif kind == "session":
            module = nn.SessionDenoiser(sizes[0], sizes[1], hidden=16, time_width=8)
        else:
            module = nn.ValueDecoder(sizes[0], d_model=8, heads=2, ffn=16, layers=1 + sizes[1] % 2, norm=("post", "pre")[sizes[1] // 2])
    module = module.eval().to(dtype).requires_grad_(False)
    object.__setattr__(module, "in_double", copy.deepcopy(module).double())
    return module


@cache
def layer_weights(W: int, F: int, dtype: torch.dtype) -> ops.SequenceWeights:
    with torch.random.fork_rng():
        torch.manual_seed(W)
        shapes = ((W,), (W,), (3 * W, W), (3 * W,), (W, W), (W,), (W,), (W,), (F, W), (F,), (W, F), (W,))
        return ops.SequenceWeights(*((torch.randn(s) / s[-1] ** 0.5).to(dtype) for s in shapes))


@cache
def schedule(name: str) -> NoiseSchedule:
    return NoiseSchedule.linear(20) if name == "linear" else NoiseSchedule.cosine(20)


EARLIER = Level(limit=lambda x: share(x) / 2, numbers=(0.5, 1e-4, 0.25))
LATER = Level(limit=lambda x: 0.5 + 0.5 * share(x), numbers=(0.5, 0.7, 1.0, 0.999, 1))  # t == s at 0.5
SCHEDULE = Made(lambda d: schedule(d.choose("linear", "cosine")))
ROW_NOISE: dict[str, Any] = dict(seed=SEED, row_ids=Ids(), draw_ids=Ids(low=0, high=9))
STEPS = Choice((1, 3, [20, 11, 2], torch.tensor([20, 11, 2, 1])))


def token_values(d: Draw) -> Any:
    values = np.sort(d.random.integers(1, 50, d.size("V") - 3))[::-1]
    t = torch.from_numpy(np.concatenate((np.zeros(3), values)))
    return d.choose(t, t.numpy(), t.float(), t.long())


def levels(d: Draw) -> Any:
    x = d.random.random(d.size("L")).round(d.choose(1, 3))
    return d.choose(x, x.tolist(), torch.from_numpy(x), torch.from_numpy(x).float(), x[::-1])


def counters(n: int) -> Made:
    def make(d: Draw) -> Any:
        x = d.random.integers(0, 2**32, (d.size("B"), n))
        return d.choose(x, x.tolist() if len(x) else x, torch.from_numpy(x), x.astype(np.uint32), x - 2**32)

    return Made(make, rows=0)


def random_words(entry: Entry, call: Call, backend: str) -> None:
    got = run(entry, call.arguments, backend)[0]
    counter, key = (torch.as_tensor(np.array(call.arguments[name]).astype(np.int64)).tolist() for name in ("counter", "key"))
    assert got.to(torch.int64).tolist() == [philox(c, k) for c, k in zip(counter, key, strict=True)]


STATE, LIKE = Floats(ROWS, group="rows"), Floats(ROWS, group="rows")
NOISE = Floats(ROWS, group="rows", optional=True)
FLOW = dict(
    z=Floats("B D | B N D"), u=Floats("B K D | K D", group="p"), w=Floats("B K D | K D", group="p"), b=Floats("B K | K", group="p"),
    constrained=CONSTRAINED,
)  # fmt: skip
SLOPES: dict[str, Any] = dict(slope=4.0, slopes_within=(1e-3, 1e2))  # beyond, they are sums that cancel
COLUMN, SAMPLES = Floats("B"), Floats("B L")

OPS = [
    Entry(ops.encode_increments, dict(y=COLUMN, widths=Floats("K | B K", at_least_zero)), kernel, gradients=("y", "widths")),
    Entry(
        ops.nested_min,
        dict(
            increments=Floats("B K"),
            widths=Floats("K | B K", at_least_zero),
            capacity=Floats("B", at_least_zero, number=True, optional=True),
        ),
        kernel,
        gradients=("increments", "widths", "capacity"),
    ),
    Entry(ops.planar_flow, FLOW, kernel, scale=("z", "u"), gradients=("z", "u", "w", "b"), **SLOPES),
    Entry(
        ops.planar_flow_inverse,
        {("z_out" if name == "z" else name): spec for name, spec in FLOW.items()}
        | {"constrained": Choice((True, "smooth"))}
        | {name: Floats("B K D | K D", group="p", kinds=FINITE) for name in ("u", "w")},  # a huge w makes steps, which have no inverse
        kernel,
        scale=("z_out", "u"),
        gradients=("z_out", "u", "w", "b"),
        **SLOPES,
    ),
    Entry(
        ops.conditional_planar_flow,
        dict(
            z=Floats("B D | B N D"),
            h=Floats("B H", kinds=USUAL),
            weight=Floats("W H", kinds=USUAL),
            bias=Floats("W", kinds=USUAL),
            constrained=CONSTRAINED,
        ),
        kernel,
        sizes={"D": (1, 2, 4), "W": (45,)},  # a multiple of 2 D + 1
        scale=("z",),
        ulps=64.0,
        **SLOPES,
        gradients=("z", "h", "weight", "bias"),
    ),
    Entry(
        ops.mlp,
        dict(
            x=Floats("B D", kinds=USUAL),
            w_in=Floats("H D", kinds=USUAL),
            b_in=Floats("H", kinds=USUAL, optional=True),
            w_out=Floats("O H", kinds=USUAL),
            b_out=Floats("O", kinds=USUAL, optional=True),
            cond=Floats("T H", kinds=USUAL),
            cond_index=Ids(optional=False, low=0, high=3),
            time=Floats("B H | 1 H", kinds=USUAL, optional=True),
            dropout=Number((0.0, 0.25, 0.9)),
            seed=SEED,
            row_ids=Ids(),
        ),
        kernel,
        sizes={"T": (4,), "H": (1, 3, 8, 17, 64, 70)},
        scale=("x", "cond"),
        ulps=64.0,
        gradients=("x", "w_in", "b_in", "w_out", "b_out", "cond", "time"),
        **SLOPES,
    ),
    Entry(
        ops.mlp,
        dict(
            x=Floats("B G D | B 1 D", kinds=USUAL),
            w_in=Floats("G H D", kinds=USUAL),
            b_in=Floats("G H", kinds=USUAL),
            w_out=Floats("G O H", kinds=USUAL),
            b_out=Floats("G O", kinds=USUAL),
        ),
        kernel,
        scale=("x",),
        ulps=64.0,
        gradients=("x", "w_in", "b_in", "w_out", "b_out"),
        **SLOPES,
    ),
    Entry(
        ops.sequence_layer,
        dict(
            x=Floats("N W", kinds=USUAL),
            offsets=Made(lambda d: torch.tensor([0, *sorted(d.random.integers(0, d.size("N") + 1, 3)), d.size("N")])),
            weights=Made(lambda d: layer_weights(d.size("W"), d.size("F"), d.dtype)),
            heads=Made(lambda d: d.choose(1, d.size("W"))),
            activation=Choice(("silu", "relu", "gelu")),
            causal=FLAG,
            memory=Made(lambda d: d.choose(None, torch.ones(4, d.size("W"), dtype=d.dtype))),
            dropout=Number((0.0, 0.25, 0.9)),
            seed=SEED,
            row_ids=Choice((None, torch.tensor([5, -1, 2**40, 0]))),
        ),
        kernel,
        sizes={"W": (1, 3, 8, 16, 24), "F": (1, 5, 33)},
        scale=("x",),
        ulps=64.0,
        gradients=("x",),
        **SLOPES,
    ),
    Entry(ops.q_sample, dict(x0=Floats("B D"), noise=STATE, alpha_bar=Level()), kernel, gradients=("x0", "noise", "alpha_bar")),
    Entry(ops.flow_sample, dict(x0=Floats("B D"), noise=STATE, t=Level(**TIMES)), kernel, gradients=("x0", "noise", "t")),
    Entry(
        ops.predict_x0,
        dict(x_t=STATE, output=LIKE, alpha_bar=Level(), prediction=Choice(("eps", "x0", "v")), clip=Number((None, 1.0, 1e-3, 3))),
        kernel,
        gradients=("x_t", "output", "alpha_bar"),
    ),
    Entry(
        ops.reverse_step,
        dict(
            x_t=STATE,
            output=LIKE,
            alpha_bar_t=EARLIER,
            alpha_bar_s=LATER,
            eta=Number((0.0, 1.0, 0.5, 1)),
            prediction=Choice(("eps", "x0", "v")),
            clip=Number((None, 1.0, 3)),
            use_clipped_model_output=FLAG,
            noise=NOISE,
            seed=SEED,
            row_ids=Ids(),
            step=STEP,
        ),
        kernel,
        noise=True,
        gradients=("x_t", "output", "alpha_bar_t", "alpha_bar_s", "noise"),
    ),
    Entry(
        ops.flow_step, dict(x_t=STATE, velocity=LIKE, t=Level(**TIMES), s=Level(**TIMES)), kernel, gradients=("x_t", "velocity", "t", "s")
    ),
    Entry(
        ops.guided_posterior_step,
        dict(
            x_t=STATE,
            f_un=LIKE,
            f_cp=LIKE,
            f_tf=LIKE,
            alpha_bar_t=EARLIER,
            alpha_bar_s=LATER,
            gamma_cp=REAL,
            gamma_tf=REAL,
            variance=Choice(("posterior", "beta")),
            noise=NOISE,
            seed=Number((None, 0, 2**64)),
            row_ids=Ids(),
            step=STEP,
        ),
        kernel,
        noise=True,
        slope=2.0,
        gradients=("x_t", "f_un", "f_cp", "f_tf", "alpha_bar_t", "alpha_bar_s", "noise"),
    ),
    Entry(
        ops.denoise_chain,
        dict(
            x_T=Floats("B D"),
            cond=Floats("B C"),
            denoiser=Made(lambda d: network("mlp", d.size("D"), d.size("C"), dtype=d.dtype)),
            schedule=SCHEDULE,
            steps=STEPS,
            aligned=Choice(([20], torch.tensor([20]), np.array([20]))),
            prediction=Choice((None, "eps", "x0", "v")),
            eta=Number((0.0, 1.0)),
            clip=Number((None, 1.0)),
            **ROW_NOISE,
        ),
        kernel,
        kinds=FINITE,
        ulps=256.0,
        noise=True,  # of the largest of the hidden layer's sums, over the steps
        names=("steps",),
    ),
    Entry(
        ops.fusion_chain,
        dict(
            h_long=Floats("B D"),
            g_cp=Floats("B K C"),
            g_tf=Floats("B K C"),
            mask=Mask("B K"),
            denoiser=Made(lambda d: network("session", d.size("D"), d.size("C"), dtype=d.dtype)),
            schedule=SCHEDULE,
            steps=STEPS,
            gamma_cp=Number((2.0, 0, 1, -1.5)),
            gamma_tf=Number((1.0, 0, 0.5)),
            **ROW_NOISE,
        ),
        kernel,
        kinds=FINITE,
        ulps=256.0,
        noise=True,
    ),
    Entry(
        ops.embedding_mixup,
        dict(
            logits=Floats("B V | B K V"),
            embedding=Floats("V E", wider=True, kinds=FINITE),
            window=Number((None, 0, 1, 2, 20, 2**40)),
            first_value_token=Number((3, 0, 1, 100)),
        ),
        kernel,
        gradients=("logits", "embedding"),
    ),
    Entry(
        ops.windowed_value,
        dict(logits=Floats("B V | B K V"), values=Floats("V", wider=True, kinds=FINITE), window=Number((None, 0, 1, 2, 20, 2**40))),
        kernel,
        gradients=("logits", "values"),
    ),
    Entry(
        ops.value_decode,
        dict(
            memory=Floats("B 8"),
            decoder=Made(lambda d: network("decoder", d.size("V"), d.integer(0, 3), dtype=d.dtype)),
            values=Made(token_values),
            max_tokens=Number((2, 3, 6)),
            window=Number((20, 0, 2)),
            mixup=Choice((None, "window", "full")),
            readout=Choice(("tokens", "windowed")),
            temperature=Number((0.0, 1.0, 0.3, 1e-300, 1e300)),
            monotone=FLAG,
            capacity=Floats("B", at_least_zero, number=True, optional=True, kinds=FINITE),
            **ROW_NOISE,
        ),
        kernel,
        kinds=FINITE,
        sizes={"V": (4, 5, 9, 17, 33)},
        ulps=256.0,
        noise=True,
    ),
    Entry(
        ops.wasserstein_quantile_loss,
        dict(
            samples=SAMPLES,
            q_user=Floats("B L", ascending),
            q_item=Floats("B L", ascending),
            lam=Floats("B", number=True, kinds=FINITE, wider=True),
        ),
        kernel,
        gradients=("samples", "q_user", "q_item", "lam"),
    ),
    Entry(
        ops.crps,
        dict(samples=SAMPLES, y=COLUMN, fair=FLAG),
        kernel,
        kinds=(*FINITE, "huge"),
        sizes={"L": (2, 3, 7, 8, 9, 16, 17, 33)},
        gradients=("samples", "y"),
        slope=2.0,
    ),
    Entry(ops.pinball, dict(q=SAMPLES, y=COLUMN, levels=Made(levels)), kernel, kinds=(*FINITE, "huge"), gradients=("q", "y")),
    Entry(
        ops.interval_score,
        dict(lower=COLUMN, upper=COLUMN, y=COLUMN, level=Number((0.5, 0.9, 0.01, np.float32(0.25)))),
        kernel,
        gradients=("lower", "upper", "y"),
        slope=4.0,
    ),
    *(
        Entry(
            function,
            dict(seed=SEED, row_ids=Ids(optional=False), step=STEP, width=Number((0, 1, 3, 4, 5, 17)), draw=Number((0, 1, 2, 1000))),
            kernel,
            dtypes=(torch.float32,),
        )
        for function in (rng.normal, rng.uniform)
    ),
    Entry(rng.philox, dict(counter=counters(4), key=counters(2)), random_words),
]
