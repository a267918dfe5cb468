"""Mixing of value tokens against eager torch and torch.compile; building and using a vocabulary against NumPy and torch."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ordkernels import ops
from ordkernels.vocabulary import EOS, FIRST_VALUE, ValueVocabulary

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, with_backward

Array = np.ndarray
V, E, WINDOW = 64, 64, 20
ROWS: dict[tuple[str, Size], tuple[int, ...]] = {
    ("cpu", "tiny"): (5,), ("cpu", "quick"): (20_000,), ("cpu", "full"): (20_000, 200_000),
    ("cuda", "tiny"): (5,), ("cuda", "quick"): (20_000,), ("cuda", "full"): (20_000, 1 << 20),
}  # fmt: skip
LABELS: dict[Size, tuple[int, ...]] = {"tiny": (300,), "quick": (200_000,), "full": (1_000_000, 10_000_000)}
MAX_TOKENS, TOLERANCE = 20, 0.001
T = MAX_TOKENS - 1


def cases(device: str, size: Size) -> Iterator[Case]:
    for R in ROWS[device, size]:
        yield _mixup(R, WINDOW, device)
        yield _mixup(R, None, device)
        yield _value(R, device)
    for N in LABELS[size] if device == "cpu" else ():
        yield _fit(N)
        yield _encode(N)


# ----------------------------------------------------------------------------------------------- in training


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


def dense_value(x: Tensor, values: Tensor) -> Tensor:
    j = torch.arange(x.shape[-1], device=x.device)
    return torch.where((j - x.argmax(-1, keepdim=True)).abs() <= WINDOW // 2, x.softmax(-1) * values, 0.0).sum(-1)


def _both(name: str, R: int, ours: Any, forms: dict[str, Callable[..., Tensor]], table: Tensor, device: str, factor: float) -> Case:
    """Forward and backward of logits [R,V] and a table."""
    x = randn(R, V, device=device, seed=1)
    g = randn(R, *table.shape[1:], device=device, seed=3)
    runs: dict[str, Run] = {OURS: with_backward(ours, [x, table], [g])}
    for form, f in forms.items():
        runs[f"eager{form}"] = with_backward(f, [x, table], [g])
        runs[f"compile{form}"] = with_backward(compiled(f), [x, table], [g])
    first = next(iter(forms.values()))
    wide = [t.double() for t in (x, table)]
    return Case(
        "value_tokens", f"{name} V={V} forward + backward R={R}", runs, lambda: with_backward(first, wide, [g.double()])(), 1e-4,
        bytes=4 * (3 * x.numel() + 2 * g.numel() + 2 * table.numel()),
        targets=[Target(f"at least {factor:g}x the best rival", "best rival", factor)] if device == "cpu" and R == 20_000 else [],
        device=device,
    )  # fmt: skip


def _mixup(R: int, window: int | None, device: str) -> Case:
    forms = {"": full_mixup} if window is None else {"": dense_mixup} | ({", gathered": gathered_mixup} if R <= 20_000 else {})
    name = f"embedding_mixup E={E}, " + ("whole vocabulary" if window is None else f"window {window}")
    embedding = randn(V, E, device=device, seed=2)
    return _both(name, R, lambda x, e: ops.embedding_mixup(x, e, window=window), forms, embedding, device, 1 if window is None else 2)


def _value(R: int, device: str) -> Case:
    values = torch.cat([torch.zeros(FIRST_VALUE), torch.linspace(50, 0.01, V - FIRST_VALUE)]).to(device)
    ours = lambda x, v: ops.windowed_value(x, v, window=WINDOW)  # noqa: E731
    return _both(f"windowed_value window {WINDOW}", R, ours, {"": dense_value}, values, device, 2)


# ------------------------------------------------------------------------------------------------ vocabulary


def watch_times(N: int, seed: int = 0) -> Array:
    """Milliseconds [N], log-normal, capped at an hour; a tenth are 0."""
    rng = np.random.default_rng(seed)
    y = np.round(np.minimum(rng.lognormal(2.5, 1.3, N), 3600) * 1000).astype(np.int64)
    y[rng.random(N) < 0.1] = 0
    return y


def _finish(found: list[int]) -> Array:
    return np.unique([*found, 1])[::-1]


def _loop(y: Array, quantile: Callable[[Array, float], float], rest: Array) -> Array:
    q, found = 0.9999, []
    while int(o := quantile(rest, q)) > 0:
        found.append(int(o))
        np.subtract(rest, o, out=rest, where=rest >= o)
        q = max(0.9, q * 0.99)
        if (rest / (y + 1e-10)).max() <= 1e-6:
            break
    return _finish(found)


def by_percentile(y: Array) -> Array:
    """The authors' loop."""
    return _loop(y, lambda rest, q: float(np.percentile(rest, 100 * q)), y.astype(np.float64))


def _between(at: float, low: float, high: float) -> float:
    t = at - int(at)
    return high - (high - low) * (1 - t) if t >= 0.5 else low + (high - low) * t


def by_partition(y: Array) -> Array:
    """The same by one selection a round, in a buffer that is kept."""
    buffer = np.empty(len(y))

    def quantile(rest: Array, q: float) -> float:
        at = (len(y) - 1) * (100 * q / 100)
        buffer[:] = rest
        buffer.partition(int(at))
        high = buffer[int(at) + 1 :].min() if int(at) + 1 < len(y) else buffer[-1]
        return _between(at, float(buffer[int(at)]), float(high))

    return _loop(y, quantile, y.astype(np.float64))


def by_distinct(y: Array) -> Array:
    """Distinct labels and their counts, kept sorted: a round is a merge of two runs, which NumPy's stable sort of floats is good at."""
    counts = np.bincount(y)
    there = np.flatnonzero(counts)
    count, rest, label = counts[there], there.astype(np.float64), there.astype(np.float64) + 1e-10
    q, found = 0.9999, []
    while True:
        at = (len(y) - 1) * (100 * q / 100)
        upto = count.cumsum()
        i, j = np.searchsorted(upto, [int(at), min(int(at) + 1, len(y) - 1)], side="right")
        o = _between(at, float(rest[i]), float(rest[j]))
        if int(o) == 0:
            break
        found.append(int(o))
        rest[np.searchsorted(rest, o) :] -= o
        order = np.argsort(rest, kind="stable")
        rest, count, label = rest[order], count[order], label[order]
        q = max(0.9, q * 0.99)
        if (rest / label).max() <= 1e-6:
            break
    return _finish(found)


def _fit(N: int) -> Case:
    y, threads = watch_times(N), torch.get_num_threads()
    runs: dict[str, Run] = {
        OURS: lambda: ValueVocabulary.fit(y, num_threads=threads).values,
        "numpy partition": lambda: by_partition(y),
        "numpy distinct labels": lambda: by_distinct(y),
    }
    if N <= 1_000_000:
        runs["numpy percentile (authors)"] = lambda: by_percentile(y)
    return Case(
        "value_tokens", f"vocabulary fit N={N}", runs, lambda: (by_percentile(y),), 0.0, bytes=8 * N,
        targets=[Target("at least 8x selection by numpy.partition", "numpy partition", 8)] if N >= 10_000_000 else [],
    )  # fmt: skip


Encoded = tuple[Array, Array, Array]


def by_searchsorted(y: Array, values: Array) -> Encoded:
    """Slot after slot, for the labels that are not yet written; values rise."""
    rest, allowed = y.copy(), (TOLERANCE * y).astype(np.int64)
    tokens, lengths = np.zeros((T, len(y)), np.int16), np.zeros(len(y), np.int32)
    live = np.arange(len(y))
    for t in range(T):
        live = live[rest[live] > allowed[live]]
        if not live.size:
            break
        i = np.searchsorted(values, rest[live], side="right") - 1
        tokens[t, live] = len(values) - 1 - i + FIRST_VALUE
        rest[live] -= values[i]
        lengths[live] += 1
    tokens[lengths, np.arange(len(y))] = EOS
    return tokens.T, lengths, rest


def by_bucketize(y: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slot after slot, for all labels; values rise and begin with 0, the slot of a label that is written."""
    rest, allowed = y.clone(), (TOLERANCE * y.double()).long()
    tokens, lengths = torch.zeros(T, len(y), dtype=torch.int16), torch.zeros(len(y), dtype=torch.int32)
    ids = (len(values) - 1 - torch.arange(len(values)) + FIRST_VALUE).short()
    for t in range(T):
        live = rest > allowed
        if not live.any():
            break
        i = torch.bucketize(rest * live, values, right=True) - 1
        torch.mul(ids[i], live, out=tokens[t])
        rest -= values[i]
        lengths += live
    tokens.scatter_(0, lengths.long()[None], EOS)
    return tokens.T, lengths, rest


def _encode(N: int) -> Case:
    y, threads = watch_times(N), torch.get_num_threads()
    vocabulary = ValueVocabulary.fit(watch_times(min(N, 1_000_000), seed=1))
    rising = np.ascontiguousarray(vocabulary.values[::-1])
    tensor, zero_first = torch.from_numpy(y), torch.from_numpy(np.concatenate(([0], rising)))
    return Case(
        "value_tokens", f"vocabulary encode N={N} T={T}",
        {
            OURS: lambda: vocabulary.encode(y, MAX_TOKENS, TOLERANCE, num_threads=threads),
            "numpy searchsorted": lambda: by_searchsorted(y, rising),
            "torch.bucketize": lambda: by_bucketize(tensor, zero_first),
        },
        lambda: _greedy_truth(y, vocabulary), 0.0, bytes=N * (8 + 2 * T + 4 + 8),
        targets=[Target("at least 12x the best rival", "best rival", 12)] if N >= 10_000_000 else [],
    )  # fmt: skip


def _greedy_truth(y: Array, vocabulary: ValueVocabulary) -> Encoded:
    """Value after value, largest first."""
    rest, allowed = y.copy(), (TOLERANCE * y).astype(np.int64)
    tokens, lengths = np.zeros((len(y), T), np.int16), np.zeros(len(y), np.int32)
    for i, v in enumerate(vocabulary.values):
        while (at := np.flatnonzero((rest >= v) & (rest > allowed))).size:
            tokens[at, lengths[at]] = i + FIRST_VALUE
            rest[at] -= v
            lengths[at] += 1
    tokens[np.arange(len(y)), lengths] = EOS
    return tokens, lengths, rest


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def mixup(R: int) -> Run:
        x, e, g = randn(R, V, device=device, seed=1), randn(V, E, device=device, seed=2), randn(R, E, device=device, seed=3)
        return with_backward(lambda x, e: ops.embedding_mixup(x, e, window=WINDOW), [x, e], [g])

    yield Scaling("value_tokens", f"embedding_mixup V={V} E={E} window {WINDOW}, forward + backward", "rows", rows, mixup, float)
    if device != "cpu":
        return
    labels = rows if size != "full" else (*rows, 10**7)
    vocabulary = ValueVocabulary.fit(watch_times(10_000, seed=1))

    def fit(N: int) -> Run:
        y = watch_times(N)
        return lambda: ValueVocabulary.fit(y, num_threads=torch.get_num_threads())

    def encode(N: int) -> Run:
        y = watch_times(N)
        return lambda: vocabulary.encode(y, MAX_TOKENS, TOLERANCE, num_threads=torch.get_num_threads())

    yield Scaling("value_tokens", "vocabulary fit", "labels", labels, fit, float)
    yield Scaling("value_tokens", "vocabulary encode", "labels", labels, encode, float)
