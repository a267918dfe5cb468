"""The fuzz entries of the samplers, on small models, and of the choice of a backend. See CONTRIBUTING, "Add an op"."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from fuzz_arguments import SEED, Choice, Draw, Ids, Made, Number
from fuzz_checks import NO_BACKEND, Call, Entry, run, same
from torch import Tensor

import ordkernels
from ordkernels import samplers
from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, IFusion


@cache
def sampler(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "FlowSampler":
            return samplers.FlowSampler(FlowTime(n_users=5, n_items=9, dense_width=2, latent=8, hidden=8))
        if name == "DiffoRSampler":
            return samplers.DiffoRSampler(DiffoR(dense_width=2, latent=16, hidden=8, heads=2))
        if name == "ValueSampler":
            return samplers.ValueSampler(GenerativeRegression(dense_width=2, hidden=8, layers=1, attention_heads=2, ffn=16))
        return samplers.FusionSampler(IFusion(n_users=5, n_items=9, dense_width=2, latent=8, hidden=8))


def batch_of(name: str) -> Callable[[Draw], Any]:
    def make(d: Draw) -> Any:
        B = d.size("B")
        whole = lambda high, *shape: torch.from_numpy(d.random.integers(0, high, (B, *shape)))  # noqa: E731
        real = lambda *shape: torch.from_numpy(d.random.random((B, *shape))).float()  # noqa: E731
        x = {"dense": real(2)}
        if name in ("FlowSampler", "FusionSampler"):
            x |= {"user": whole(5), "item": whole(9)} | {f"q_{side}": real(20).sort().values for side in ("user", "item")}
            x |= {f"has_{side}": whole(2).float() for side in ("user", "item")}
        if name == "FusionSampler":
            x |= {"long": whole(10, 2), "sessions": whole(10, 4, 3), "feedback": real(4, 3, 3)}
        return x

    return make


def call_of(name: str, method: str) -> Callable[..., Any]:
    def function(x: Any, n: Any = 1, seed: Any = 0, row_ids: Any = None, **more: Any) -> Any:
        return getattr(sampler(name), method)(x, n=n, seed=seed, row_ids=row_ids, **more)

    function.__name__ = method
    return function


def sampled(entry: Entry, call: Call, backend: str | None) -> None:
    """Finite, twice the same, inputs as they were, a row alone as in its batch (dense layers: to rounding)."""
    arguments = call.arguments
    before = {key: t.clone() for key, t in arguments["x"].items()}
    got = run(entry, arguments, backend)[0]
    assert all(same(t, before[key]) for key, t in arguments["x"].items()), "the batch was written into"
    assert same(got, run(entry, arguments, backend)[0]), "two calls differ"
    assert bool(got.isfinite().all())
    assert len(got) == call.rows
    if call.rows > 1:
        ids = arguments["row_ids"]
        ids = torch.arange(call.rows) if ids is None else torch.as_tensor(ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids)
        alone = run(entry, arguments | {"x": {key: t[1:2] for key, t in arguments["x"].items()}, "row_ids": ids[1:2]}, backend)[0]
        torch.testing.assert_close(alone, got[1:2], rtol=1e-3, atol=1e-4)


BATCH_KEYS = ("dense", "user", "item", "long", "sessions", "feedback")


def of_sampler(name: str, method: str, **more: Any) -> Entry:
    arguments = dict(x=Made(batch_of(name)), n=Number((1, 2, 3, 8, np.int64(5))), seed=SEED, row_ids=Ids(), **more)
    sizes = {"B": (1, 0, 2, 3, 9)}
    return Entry(call_of(name, method), arguments, sampled, sizes=sizes, covers=f"samplers.{name}", names=BATCH_KEYS, **NO_BACKEND)


LEVEL, STATISTIC = Number((0.5, 0.9)), Choice(("median", "mean"))
NAMES = ("FlowSampler", "DiffoRSampler", "ValueSampler", "FusionSampler")
SAMPLERS = [
    *(of_sampler(name, "sample") for name in NAMES),
    *(of_sampler(name, "predict", statistic=STATISTIC) for name in NAMES),
    *(of_sampler(name, "interval", level=LEVEL) for name in NAMES),
]


def named_backends(op: Any) -> Any:
    return [len(ordkernels.available_backends(op))]


def with_backend(name: Any) -> Any:
    with ordkernels.use_backend(name):
        return [0]


def lists_four(entry: Entry, call: Call, backend: str | None) -> None:
    assert run(entry, call.arguments, backend)[0].item() in (0, 4)


ROOT = [
    Entry(named_backends, dict(op=Choice(("crps", "mae", "normal", "planar_flow"))), lists_four, covers="available_backends", **NO_BACKEND),
    Entry(with_backend, dict(name=Choice(("reference", "cpu", "triton", "cuda"))), lists_four, covers="use_backend", **NO_BACKEND),
]

SAMPLED = [*SAMPLERS, *ROOT]
