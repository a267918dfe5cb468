"""The windowed value of logits against torch, eager and compiled."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ordkernels import ops
from ordkernels.vocabulary import FIRST_VALUE

from . import Case, Run, Scaling, Size, randn, with_backward
from ._value_tokens import ROWS, WINDOW, V, forward_backward_case


def cases(device: str, size: Size) -> Iterator[Case]:
    for R in ROWS[device, size]:
        yield _value(R, device)


def dense_value(x: Tensor, values: Tensor) -> Tensor:
    j = torch.arange(x.shape[-1], device=x.device)
    return torch.where((j - x.argmax(-1, keepdim=True)).abs() <= WINDOW // 2, x.softmax(-1) * values, 0.0).sum(-1)


def token_values(device: str) -> Tensor:
    return torch.cat([torch.zeros(FIRST_VALUE), torch.linspace(50, 0.01, V - FIRST_VALUE)]).to(device)


def _value(R: int, device: str) -> Case:
    ours = lambda x, v: ops.windowed_value(x, v, window=WINDOW)  # noqa: E731
    return forward_backward_case("windowed_value", f"window {WINDOW}", R, ours, {"": dense_value}, token_values(device), device, 2)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def value(R: int) -> Run:
        x, g = randn(R, V, device=device, seed=1), randn(R, device=device, seed=3)
        return with_backward(lambda x, v: ops.windowed_value(x, v, window=WINDOW), [x, token_values(device)], [g])

    yield Scaling("windowed_value", f"V={V} window {WINDOW}, forward + backward", "rows", rows, value, float)
