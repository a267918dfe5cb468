"""Mixing of value tokens against torch, eager and compiled, dense and gathered."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ordkernels import ops
from ordkernels.vocabulary import FIRST_VALUE

from . import Case, Run, Scaling, Size, randn, with_backward
from ._value_tokens import ROWS, WINDOW, V, forward_backward_case

E = 64


def cases(device: str, size: Size) -> Iterator[Case]:
    for R in ROWS[device, size]:
        yield _mixup(R, WINDOW, device)
        yield _mixup(R, None, device)


def dense_mixup(x: Tensor, e: Tensor) -> Tensor:
    """Everything outside the window masked, then one matrix product."""
    m = x.argmax(-1, keepdim=True)
    j = torch.arange(x.shape[-1], device=x.device)
    inside = torch.where(m >= FIRST_VALUE, ((j - m).abs() <= WINDOW // 2) & (j >= FIRST_VALUE), j == m)
    return torch.where(inside, x, -torch.inf).softmax(-1) @ e


def gathered_mixup(x: Tensor, e: Tensor) -> Tensor:
    """The window's logits and embeddings gathered, then a product for each row."""
    m = x.argmax(-1, keepdim=True)
    at = m + torch.arange(-(WINDOW // 2), WINDOW // 2 + 1, device=x.device)
    inside = torch.where(m >= FIRST_VALUE, (at >= FIRST_VALUE) & (at < x.shape[-1]), at == m)
    at = at.clamp(0, x.shape[-1] - 1)
    p = torch.where(inside, x.gather(-1, at), -torch.inf).softmax(-1)
    return (p[..., None] * e[at]).sum(-2)


def full_mixup(x: Tensor, e: Tensor) -> Tensor:
    return x.softmax(-1) @ e


def _mixup(R: int, window: int | None, device: str) -> Case:
    forms = {"": full_mixup} if window is None else {"": dense_mixup} | ({", gathered": gathered_mixup} if R <= 20_000 else {})
    name = f"E={E}, " + ("whole vocabulary" if window is None else f"window {window}")
    embedding = randn(V, E, device=device, seed=2)
    ours = lambda x, e: ops.embedding_mixup(x, e, window=window)  # noqa: E731
    return forward_backward_case("embedding_mixup", name, R, ours, forms, embedding, device, 1 if window is None else 2)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def mixup(R: int) -> Run:
        x, e, g = randn(R, V, device=device, seed=1), randn(V, E, device=device, seed=2), randn(R, E, device=device, seed=3)
        return with_backward(lambda x, e: ops.embedding_mixup(x, e, window=WINDOW), [x, e], [g])

    yield Scaling("embedding_mixup", f"V={V} E={E} window {WINDOW}, forward + backward", "rows", rows, mixup, float)
