"""Row-keyed random numbers against torch.randn, whose numbers belong to the place in the batch and not to the row."""

from collections.abc import Iterator
from typing import Any

import torch

import ordkernels
from ordkernels import rng

from . import OURS, Case, Run, Scaling, Size, generator

SHAPES: dict[Size, tuple[tuple[int, int], ...]] = {  # rows, width
    "tiny": ((64, 64),),
    "quick": ((1024, 64),),
    "full": ((1024, 64), (65_536, 64)),
}


def cases(device: str, size: Size) -> Iterator[Case]:
    shapes = SHAPES[size]
    for B, width in ((1024, 64), (1 << 20, 64)) if device == "cuda" and size == "full" else shapes:
        yield _case("normal", B, width, device)
        yield _case("uniform", B, width, device)


def _case(kind: str, B: int, width: int, device: str) -> Case:
    ids = torch.randperm(B, generator=generator(device, 0), device=device)
    ours = getattr(rng, kind)
    generate = torch.randn if kind == "normal" else torch.rand

    def on_reference() -> Any:
        with ordkernels.use_backend("reference"):
            return ours(7, ids, step=3, width=width)

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            return (ours(7, ids, step=3, width=width),)

    runs: dict[str, Run] = {
        OURS: lambda: ours(7, ids, step=3, width=width),
        "reference": on_reference,
        f"torch.{generate.__name__}, not row-keyed": lambda: generate(B, width, device=device),
    }
    case = Case(
        "rng", f"{kind} B={B} width={width}", runs, expected, 1e-5, bytes=8 * B + 4 * B * width,
        context=("reference",), device=device,
    )  # fmt: skip
    # Another generator has other numbers; that they are of the right distribution is what can be asked of it.
    reference = expected()
    mean, deviation = (0.0, 1.0) if kind == "normal" else (0.5, 12**-0.5)

    def distribution(out: torch.Tensor) -> tuple[Any, ...]:
        near = abs(float(out.mean()) - mean) < 6 * deviation / (B * width) ** 0.5
        return reference if near and abs(float(out.std()) / deviation - 1) < 6 / (B * width) ** 0.5 and out.shape == (B, width) else ()

    case.outputs[f"torch.{generate.__name__}, not row-keyed"] = distribution
    return case


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6 if device == "cpu" else 7}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def make(B: int) -> Run:
        ids = torch.arange(B, device=device)
        return lambda: rng.normal(7, ids, step=0, width=16)

    yield Scaling("rng", "normal, width=16", "B", rows, make, float)
