"""Scoring of many rows in blocks of one size: what a row is predicted does not depend on which rows come with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._backend import forced_backend, use_backend
from .._validation.numbers import integer, one_of, real
from .._validation.tensors import integers
from ..models._base import GenerativeModel
from ..samplers._base import draw_count

__all__ = ["Predictor", "quantiles_of_draws"]

_TILE = 64  # rows: smaller blocks take other paths of the matrix products, at another rounding
_SPAN = 1 << 12  # rows whose batch is made at once: features by few rows take longer
_MOST_ROWS, _MOST_DRAWS = 1 << 12, 1 << 15  # of a block: up to these no sampler splits it

Batch = dict[str, Tensor]


class Predictor:
    """Predictions of a model or a fitted estimator for any number of rows: arrays in, arrays out.

    A prediction depends on the row, its row id and the seed alone, bit for bit: not on the other rows of the call, their order, nor the
    number of threads. Matrix products round differently by the number of rows, so rows are predicted in blocks of one size, the last
    one padded, and each block by a single thread; several threads work on blocks of their own. Next to the arguments and the result,
    memory holds one block a thread.

    Args:
        model: one of `ordkernels.models`, or a fitted estimator of `ordkernels.estimators`.
        batch_size: rows of a block, 64 to 4096, rounded up to a multiple of 64. A call of fewer rows costs as much as one of so many.
        threads: that predict; None: ``torch.get_num_threads()``.

    Raises:
        TypeError, ValueError: another model, numbers out of range.

    Example:
        >>> from ordkernels.models import DiffoR
        >>> predictor = Predictor(DiffoR(dense_width=2), batch_size=64, threads=1)
        >>> predictor({"dense": np.zeros((5, 2))}, quantiles=[0.1, 0.5, 0.9], row_ids=np.arange(5)).shape
        (5, 3)
    """

    def __init__(self, model: Any, batch_size: int = 1024, *, threads: int | None = None) -> None:
        estimator = not isinstance(model, nn.Module)
        if (estimator and not hasattr(model, "model_")) or not callable(getattr(model, "predict", None)):
            raise TypeError(f"model: expected one of ordkernels.models or a fitted estimator, got {type(model).__name__}")
        self.model, self._estimator = model, estimator
        self.batch_size = -(-integer("batch_size", batch_size, least=1, most=_MOST_ROWS) // _TILE) * _TILE
        self.threads = torch.get_num_threads() if threads is None else integer("threads", threads, least=1, most=1024)
        self._pool: ThreadPoolExecutor | None = None

    @property
    def module(self) -> nn.Module:
        """The model itself, without its estimator."""
        found: nn.Module = self.model.model_ if self._estimator else self.model
        return found

    def __call__(
        self,
        rows: Any,
        *,
        statistic: str | Callable[[Tensor], Tensor] | None = None,
        n: int | None = None,
        quantiles: Sequence[float] | None = None,
        seed: int = 0,
        row_ids: Any = None,
    ) -> Any:
        """Predictions of rows.

        Args:
            rows: for a model the batch that its ``predict`` takes, as a dict or Arrow table of columns (NumPy, Arrow, tensors or lists;
                several numbers a row: ``[B, F]``, or lists of one length); for an estimator a table as its ``predict`` takes it.
            statistic: ``"median"`` (the default), ``"mean"``, ``"samples"`` for the draws themselves, another of the model's, or a function
                of the draws of some rows, ``[b, n] -> [b, ...]``.
            n: draws of each row; None: 32 for a statistic, 128 for quantiles.
            quantiles: levels in [0, 1], instead of a statistic.
            seed: of the draws.
            row_ids: ``[B]`` integers that the draws belong to; None: the estimator's column of that role, or ``0 .. B - 1``.

        Returns:
            ``[B]``; ``[B, Q]`` of quantiles, ``[B, n]`` of samples: tensors for tensors, Arrow (fixed-size lists) for Arrow, else NumPy.

        Raises:
            TypeError, ValueError: what is wrong, with its name, what was expected and what came.
        """
        if quantiles is not None:
            if statistic is not None:
                raise ValueError(f"statistic: expected None with quantiles, got {statistic!r}")
            quantiles = [real("quantiles", q, least=0, most=1) for q in quantiles]
        n = draw_count((32 if quantiles is None else 128) if n is None else n)
        batch_of, B, ids, container = self._read(rows, row_ids)
        return container(self.in_blocks(batch_of, B, ids, n, self._scorer(statistic, n, quantiles, seed)))

    def encode(self, rows: Any, row_ids: Any = None) -> tuple[Batch, Tensor]:
        """What the model reads of rows, and their ids, which `predict_encoded` takes: for rows that come from several places.

        Args, Raises: as of a call.
        """
        batch_of, B, ids, _ = self._read(rows, row_ids)
        return batch_of(torch.arange(B)), ids

    def predict_encoded(self, batch: Batch, ids: Tensor, *, statistic: Any = None, n: int = 32, seed: int = 0) -> Tensor:
        """Predictions of what `encode` has made, the bytes of a call with the rows themselves; arguments as of a call."""
        score = self._scorer(statistic, n, None, seed)
        return self.in_blocks(lambda chosen: {name: t[chosen] for name, t in batch.items()}, len(ids), ids, n, score)

    def warm_up(self, rows: Any, **arguments: Any) -> Predictor:
        """One block in every thread, of repeated rows: what a first call sets up. ``rows`` and arguments as of a call; the predictor."""
        batch_of, B, ids, _ = self._read(rows, None)
        if not B:
            raise ValueError("rows: expected at least one row to warm up with, got none")
        n, quantiles = draw_count(arguments.get("n") or 32), arguments.get("quantiles")
        score = self._scorer(arguments.get("statistic"), n, quantiles, arguments.get("seed", 0))
        repeated = self.batch_size * self.threads
        self.in_blocks(lambda r: batch_of(r % B), repeated, ids[torch.arange(repeated) % B], n, score)
        return self

    def close(self) -> None:
        """Ends the threads; a later call starts others."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None}  # threads do not travel to another process

    def in_blocks(
        self, batch_of: Callable[[Tensor], Batch], B: int, ids: Tensor, n: int, score: Callable[[Batch, Tensor], Tensor]
    ) -> Tensor:
        """``score(batch, row ids)`` of all rows, in blocks of one size.

        Args:
            batch_of: row numbers to their batch.
            B: rows.
            ids: of the rows.
            n: draws of a row, which a block's rows times stay the same.
            score: -> ``[b, ...]``.
        """
        size = min(self.batch_size, max(1, _MOST_DRAWS // n))
        size = size - size % _TILE if size > _TILE else size
        backend, device = forced_backend(), next((t.device for t in self.module.state_dict().values()), torch.device("cpu"))

        span = max(1, min(_SPAN, -(-B // self.threads)) // size) * size

        def predicted(start: int) -> Tensor:
            rows = torch.arange(start, min(start + span, start - (start - B) // size * size))
            rows = torch.where(rows < B, rows, start)  # the last block is padded
            batch = batch_of(rows)
            found: list[Tensor] = []
            with nullcontext() if backend is None else use_backend(backend):  # a thread's own setting
                for block in rows.split(size):
                    x = {name: t[len(found) * size :][:size].clone().to(device) for name, t in batch.items()}
                    found.append(score(x, ids[block].to(device)).cpu())
            return torch.cat(found)[: B - start]

        if not B:
            none = torch.empty(0, dtype=torch.int64)
            return score({name: t.to(device) for name, t in batch_of(none).items()}, none.to(device)).cpu()
        starts = range(0, B, span)
        results = self._threads().map(predicted, starts)
        first = next(results)
        out = first.new_empty(B, *first.shape[1:])
        out[: len(first)] = first
        for start, found in zip(starts[1:], results, strict=True):
            out[start : start + len(found)] = found
        return out

    def _threads(self) -> ThreadPoolExecutor:
        """Workers whose operators run on one thread each, whatever the callers' do."""
        if self._pool is None:
            ready, callers = threading.Barrier(self.threads + 1), torch.get_num_threads()

            def start() -> None:
                torch.set_num_threads(1)
                _keep_freed_memory()
                ready.wait()

            self._pool = ThreadPoolExecutor(self.threads, "ordkernels-predictor", initializer=start)
            for _ in range(self.threads):
                self._pool.submit(int)
            ready.wait()
            torch.set_num_threads(callers)  # of this thread, and of those that start later
        return self._pool

    def _scorer(
        self, statistic: str | Callable[[Tensor], Tensor] | None, n: int, quantiles: Sequence[float] | None, seed: int
    ) -> Callable[[Batch, Tensor], Tensor]:
        m: Any = self.module
        if not isinstance(m, GenerativeModel):
            if quantiles is not None or statistic == "samples" or callable(statistic):
                raise ValueError(
                    f"{'quantiles' if quantiles is not None else 'statistic'}: expected None, {type(m).__name__} makes no draws"
                )
            keywords = {} if statistic is None else {"statistic": statistic}
            return lambda x, ids: m.predict(x, **keywords)
        if quantiles is not None and self._estimator:  # as `PredictedDistribution.ppf`
            return lambda x, ids: torch.from_numpy(quantiles_of_draws(m.sample(x, n, seed, ids).double().cpu().numpy(), quantiles))
        if quantiles is not None:
            return lambda x, ids: m.sampler().quantiles(x, quantiles, n, seed, ids)
        if callable(statistic):
            return lambda x, ids: statistic(m.sample(x, n, seed, ids))
        if statistic == "samples":
            return lambda x, ids: m.sample(x, n, seed, ids)
        greedy = ("greedy",) if hasattr(m, "readout") else ()
        chosen = one_of("statistic", statistic or "median", ("median", "mean", *greedy, "samples"))
        return lambda x, ids: m.predict(x, n, seed, ids, chosen)

    def _read(self, rows: Any, row_ids: Any) -> tuple[Callable[[Tensor], Batch], int, Tensor, Callable[[Tensor], Any]]:
        batch_of, B, ids, container = self._table(rows) if self._estimator else self._columns(rows)
        if row_ids is not None:
            ids = integers("row_ids", row_ids).cpu()
            if ids.shape != (B,):
                raise ValueError(f"row_ids: expected shape [B] = [{B}], got {list(ids.shape)}")
        return batch_of, B, ids, container

    def _table(self, rows: Any) -> tuple[Callable[[Tensor], Batch], int, Tensor, Callable[[Tensor], Any]]:
        """An estimator's table: what makes a batch of some rows, their number, their ids, and the container of the result."""
        container = _arrow if _is_arrow(rows) else _numpy
        return *self.model.rows_to_score(rows), lambda out: container(out.double())

    def _columns(self, rows: Any) -> tuple[Callable[[Tensor], Batch], int, Tensor, Callable[[Tensor], Any]]:
        """The same of a model's batch."""
        names = rows.column_names if _is_arrow(rows) else rows
        if not isinstance(names, Mapping | list) or not names:
            raise TypeError(f"rows: expected a dict or Arrow table of columns, got {type(rows).__name__}")
        columns = {name: rows[name] for name in names if name != "y"}
        first = next(iter(columns.values()))
        dtype = next((p.dtype for p in self.module.parameters()), torch.float32)
        tensors = {name: _tensor(name, column, dtype) for name, column in columns.items()}
        B = len(next(iter(tensors.values())))
        for name, t in tensors.items():
            if len(t) != B:
                raise ValueError(f"{name}: expected {B} rows as in {next(iter(tensors))}, got {len(t)}")
        container: Callable[[Tensor], Any] = _numpy
        if isinstance(first, Tensor):
            device = first.device
            container = lambda out: out.to(device)  # noqa: E731
        elif _is_arrow(first):
            container = _arrow
        return lambda chosen: {name: t[chosen.to(t.device)] for name, t in tensors.items()}, B, torch.arange(B), container


def _keep_freed_memory() -> None:
    """glibc maps blocks of memory anew, page by page, unless one as large was freed before: up to a third of the time of a sampler."""
    torch.empty(31 << 20, dtype=torch.uint8)  # above 32 MiB it learns nothing


def quantiles_of_draws(draws: NDArray[np.float64], levels: ArrayLike) -> NDArray[np.float64]:
    """``[B]`` of one level, ``[B, Q]`` of several; linear between the draws ``[B, n]``, the k-th of level k / (n + 1)."""
    found: NDArray[np.float64] = np.quantile(draws, np.asarray(levels, np.float64), axis=1, method="weibull")  # levels first
    return found.T


def _is_arrow(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "pyarrow"


def _tensor(name: str, column: Any, dtype: torch.dtype) -> Tensor:
    """A column as a tensor; floating ones that were no tensor in the model's dtype."""
    if isinstance(column, Tensor):
        if not column.dim():
            raise TypeError(f"{name}: expected one entry per row, got a scalar")
        return column.detach()
    if _is_arrow(column):
        if column.null_count:
            raise ValueError(f"{name}: expected no missing values, got {column.null_count}")
        column = column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(zero_copy_only=False)
    try:
        a = np.asarray(column)
        while a.dtype == object:  # lists of one length, as tables hold them
            stacked = np.stack([np.stack(list(v)) if isinstance(v, np.ndarray) and v.dtype == object else np.asarray(v) for v in a])
            if stacked.dtype == object and stacked.shape == a.shape:
                raise TypeError("some of them are no numbers of 64 bits")
            a = stacked
        t = torch.from_numpy(np.require(a if a.dtype.kind != "u" else a.astype(np.int64), requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected numbers, as many in each row, got {type(column).__name__} ({error})") from error
    if not t.dim():
        raise TypeError(f"{name}: expected one entry per row, got a scalar")
    return t.to(dtype) if t.is_floating_point() else t


def _numpy(out: Tensor) -> Any:
    return (out.float() if out.dtype in (torch.bfloat16, torch.float16) else out).numpy()


def _arrow(out: Tensor) -> Any:
    import pyarrow as pa

    a = _numpy(out)
    return pa.array(a) if a.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(a.reshape(-1)), a.shape[1])
