"""Counter-based random numbers that belong to the row: the same on every backend, in any batch, shard, order and thread.

Philox-4x32-10 with key = seed mod 2^64 (low word, high word) and counter = (row id low, row id high, step, block). Float
`offset` of draw `draw` has the index ``draw * width + offset`` in the stream of its (seed, row id, step): block ``index // 4``, word
``index % 4``. So what a row draws depends on these numbers alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _functorch_is_active
from torch.compiler import is_compiling

from . import _backend
from ._library import NAMESPACE
from ._validation import tensors as checks
from ._validation.numbers import integer, stream_step
from ._validation.numbers import seed as signed_seed
from .ops._register import Op, fold_rows
from .reference import rng as reference

__all__ = ["normal", "philox", "uniform"]

RowIds = Tensor | np.ndarray | Sequence[int] | None


def normal(
    seed: int | Tensor,
    row_ids: RowIds,
    step: int,
    width: int,
    draw: int | Tensor = 0,
    *,
    rows: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Standard normals ``[B, width]``, fp32, by Box-Muller on words (0, 1) and (2, 3) of each block.

    .. math:: u = (\lfloor x / 2^8 \rfloor + 1/2)\, 2^{-24}, \quad r = \sqrt{-2 \ln u_1}, \quad
              (r \cos 2 \pi u_2,\ r \sin 2 \pi u_2)

    The words agree bit for bit between backends; the normals to 4 ulp of the exact value (u is not rounded before the logarithm).
    \|value\| is at most 5.89, and non-zero.

    Args:
        seed: any Python int, taken mod 2^64; or an integer tensor ``[]``, whose value a compiled graph does not ask for.
        row_ids: ``[B]`` integers, a tensor, an array or a sequence; negative ones stand for their 64-bit pattern. None means
            ``arange(B)``, B from ``draw`` if that is a tensor, else from ``rows``; then a row's numbers depend on its place in the
            batch, so pass ids wherever a batch may be split or reordered.
        step: 0 to 2^32 - 1. Initial noise is step 0, the noise of step t is step t.
        width: numbers per row.
        draw: which of a row's samples: an int for all rows, or an integer tensor ``[B]``.
        rows: B where row_ids is None.
        device: of the result; that of the tensors given by default.

    Returns:
        fp32 ``[B, width]`` on the device of row_ids.

    Raises:
        TypeError, ValueError: naming the argument; ValueError also where ``draw * width + offset`` goes over 2^32. A tensor
            ``draw`` is checked on the CPU in eager mode only: elsewhere that would wait for the device, and rows out of range are NaN.

    Source: Salmon, Moraes, Dror, Shaw, Parallel Random Numbers: As Easy as 1, 2, 3; Box and Muller, 1958.

    Example:
        >>> import torch
        >>> from ordkernels import rng
        >>> batch = rng.normal(7, torch.tensor([10, 11, 12]), step=0, width=5)
        >>> torch.equal(batch[1:2], rng.normal(7, [11], step=0, width=5))
        True
    """
    return _noise(_NORMAL, seed, row_ids, step, width, draw, rows, device)


def uniform(
    seed: int | Tensor,
    row_ids: RowIds,
    step: int,
    width: int,
    draw: int | Tensor = 0,
    *,
    rows: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Uniform numbers ``[B, width]``, fp32, the same bits on every backend.

    .. math:: u = (\lfloor x / 2^8 \rfloor + 1/2)\, 2^{-24}

    rounded to the nearest fp32: 25 bits to 24, so 0 cannot occur and 1 can (once in 2^24).

    Args, Returns, Raises: as :func:`normal`.

    Example:
        >>> from ordkernels import rng
        >>> u = rng.uniform(7, [3, 4], step=0, width=100)
        >>> u.shape, bool((u > 0).all()), bool((u <= 1).all())
        (torch.Size([2, 100]), True, True)
    """
    return _noise(_UNIFORM, seed, row_ids, step, width, draw, rows, device)


def philox(counter: Tensor | np.ndarray | Sequence[Any], key: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
    """Philox-4x32-10: the four words of each counter.

    Args:
        counter: ``[N, 4]`` integers of any type, their lower 32 bits taken.
        key: ``[N, 2]`` alike.

    Returns:
        ``[N, 4]``, torch.uint32. torch has few ops for it: ``.to(torch.int64)``, ``.numpy()`` and ``==`` work.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Salmon, Moraes, Dror, Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, section 3.3.

    Example:
        >>> from ordkernels import rng
        >>> [hex(w) for w in rng.philox([[0, 0, 0, 0]], [[0, 0]])[0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c, k = checks.integers("counter", counter), checks.integers("key", key)
    for name, t, width in (("counter", c, 4), ("key", k, 2)):
        if t.dim() != 2 or t.shape[1] != width:
            raise ValueError(f"{name}: expected [N, {width}], got {list(t.shape)}")
    if k.shape[0] != c.shape[0]:
        raise ValueError(f"key: expected [N, 2] with the N of counter, {c.shape[0]}, got {list(k.shape)}")
    checks.same_device("key", k, "counter", c)
    return _PHILOX(c, k).view(torch.uint32)


def _noise(kernel: Op[Tensor], seed: int | Tensor, row_ids: Any, step: int, width: int, draw: Any, rows: int | None, device: Any) -> Tensor:
    traced_seed = seed if is_compiling() and isinstance(seed, Tensor) else None  # its value is not known
    step, width, seed = stream_step(step), integer("width", width), 0 if traced_seed is not None else signed_seed(seed)
    if width < 0:
        raise ValueError(f"width: expected 0 or more, got {width}")
    draws = None
    if isinstance(draw, Tensor):
        draws, draw = checks.integers("draw", draw, device), 0
        if draws.dim() != 1:
            raise ValueError(f"draw: expected an int or a tensor of shape [B], got shape {list(draws.shape)}")
    ids = _row_ids(row_ids, draws, rows, device)
    if draws is None:
        draw = integer("draw", draw)
        _check_draw(draw, draw, width)
    else:
        if draws.shape != ids.shape:
            raise ValueError(f"draw: expected an int or a tensor of shape [B] = {list(ids.shape)}, got {list(draws.shape)}")
        checks.same_device("draw", draws, "row_ids", ids)
        if draws.numel() and checks.can_read_values(draws):
            low, high = torch.aminmax(draws)
            _check_draw(int(low), int(high), width)
    plain = _backend.forced_backend() == "reference"
    if is_compiling() and (plain or traced_seed is not None) and not _functorch_is_active():
        key = torch.tensor(seed) if traced_seed is None else traced_seed
        noise: Tensor = _keyed_noise(ids, draws, draw, key, step, width, kernel.kernel_name, plain)
        return noise
    return kernel(ids, draws, draw, seed, step, width)


@torch.library.custom_op(f"{NAMESPACE}::keyed_noise", mutates_args=())
def _keyed_noise(
    row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: Tensor, step: int, width: int, kind: str, plain: bool
) -> Tensor:
    """A call in a compiled graph as one node, by plain torch if so: Inductor would recompute its ten rounds for each of their uses."""
    source = getattr(reference, kind) if plain else getattr(torch.ops.ordkernels, kind)
    noise: Tensor = source(row_ids, draw_ids, draw, int(seed), step, width)
    return noise


@_keyed_noise.register_fake
def _(row_ids: Tensor, draw_ids: Tensor | None, draw: int, seed: Tensor, step: int, width: int, kind: str, plain: bool) -> Tensor:
    return _fake_rows(row_ids, width)


def _row_ids(row_ids: Any, draws: Tensor | None, rows: int | None, device: Any) -> Tensor:
    rows = None if rows is None else integer("rows", rows, most=2**31)
    if row_ids is None:
        if draws is None and rows is None:
            raise ValueError("row_ids: expected [B] ids (None means arange(B), with B given by rows= or by a tensor draw), got None")
        B = draws.shape[0] if draws is not None else int(rows or 0)
        if B < 0 or (rows is not None and rows != B):
            raise ValueError(f"rows: expected the length of draw, {B}, got {rows}" if B >= 0 else f"rows: expected 0 or more, got {rows}")
        return torch.arange(B, device=device if device is not None else (None if draws is None else draws.device))
    ids = checks.integers("row_ids", row_ids, device)
    if ids.dim() != 1:
        raise ValueError(f"row_ids: expected [B], got shape {list(ids.shape)}")
    if rows is not None and rows != ids.shape[0]:
        raise ValueError(f"rows: expected the length of row_ids, {ids.shape[0]}, got {rows}")
    return ids


def _check_draw(low: int, high: int, width: int) -> None:
    if low < 0:
        raise ValueError(f"draw: expected 0 or more, got {low}")
    if high >= 2**63 or (width > 0 and high * width + width - 1 > reference.LARGEST_INDEX):
        raise ValueError(f"draw: expected draw * width + offset up to 2^32, got {high} * {width} + {width - 1}")


def _fake_rows(row_ids: Tensor, width: int) -> Tensor:
    return row_ids.new_empty((row_ids.shape[0], width), dtype=torch.float32)


def _fake_words(counter: Tensor) -> Tensor:
    return counter.new_empty(counter.shape, dtype=torch.int32)


_NORMAL: Op[Tensor] = Op("normal", serves="random_normal", reference=reference.random_normal, fake=_fake_rows, vmap=fold_rows, triton="rng")
_UNIFORM: Op[Tensor] = Op(
    "uniform", serves="random_uniform", reference=reference.random_uniform, fake=_fake_rows, vmap=fold_rows, triton="rng"
)
_PHILOX: Op[Tensor] = Op("philox", reference=reference.philox, fake=_fake_words, vmap=fold_rows, triton="rng")

for _name in __all__:  # a call with a proxy is one node of `torch.fx.symbolic_trace`'s graph
    torch.fx.wrap(_name)
