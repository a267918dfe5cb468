"""GR's inference: every draw is one decoded sequence of value tokens, many rows and draws in one call."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .. import ops
from ..nn import ValueDecoder
from .flow import FlowSampler

__all__ = ["ValueSampler"]


class TokenModel(Protocol):
    """What the sampler needs of a model: a memory vector per row, and a decoder with its tokens' values."""

    training: bool
    decoder: ValueDecoder
    token_values: Tensor  # [V]
    steps: int  # longest sequence, SOS counted
    window: int
    mixup: Literal["window", "full"] | None
    readout: Literal["tokens", "windowed"]
    monotone: bool

    def condition(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]: ...  # [B, M], capacity [B] or None

    def train(self, mode: bool = True) -> Any: ...


class ValueSampler(FlowSampler):
    """Draws, point predictions and intervals of a model that generates a number token by token.

    A draw samples each token from the decoder's softmax (at ``temperature``) given the tokens drawn so far, until EOS, and
    is the sum of the tokens' values. Its noise belongs to (seed, row id, draw number), so a row's draws do not depend on how
    rows are split into batches (to rounding), as long as its id is passed, nor on how many are asked for.
    ``statistic="greedy"`` is the paper's prediction: the likeliest token at each step, fed back as in training
    (``model.mixup``), read out by ``model.readout``; it needs no noise.

    Rows go through in micro-batches of at most ``max_rows`` sequences (at least one row), each of them one call of
    ``ops.value_decode``, under ``torch.inference_mode`` and with the model in eval mode.

    Args:
        model: as ``ordkernels.models.GenerativeRegression``.
        temperature: of the draws, above 0.
        monotone: sequences that do not increase alone; None: the model's.
        max_rows: bound on the sequences decoded at once.

    Errors: ``ValueError`` for a temperature that is not positive, and as ``FlowSampler``.

    Source: GR (arXiv:2412.20211), section 3.5.3 (greedy); draws are ours.

    Example::

        >>> draws = ValueSampler(model, temperature=0.9).sample(x, 32, seed=7, row_ids=ids)      # [B, 32]
    """

    model: Any

    def __init__(self, model: TokenModel, *, temperature: float = 1.0, monotone: bool | None = None, max_rows: int = 1 << 15) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        if max_rows < 1:
            raise ValueError(f"max_rows: expected at least 1, got {max_rows}")
        self.model, self.temperature, self.max_rows = model, temperature, max_rows
        self.monotone = model.monotone if monotone is None else monotone

    def _rows_at_once(self, n: int) -> int:
        return max(1, self.max_rows // n)

    def _draws(self, x: dict[str, Tensor], n: int, seed: int, ids: Tensor) -> Tensor:
        m = self.model
        memory, capacity = m.condition(x)
        b = len(memory)
        drawn = ops.value_decode(
            memory.repeat_interleave(n, dim=0), m.decoder, m.token_values, max_tokens=m.steps, temperature=self.temperature,
            monotone=self.monotone, capacity=None if capacity is None else capacity.repeat_interleave(n), seed=seed,
            row_ids=ids.repeat_interleave(n), draw_ids=torch.arange(n, device=memory.device).repeat(b),
        )  # fmt: skip
        return drawn.value.view(b, n)

    def _greedy(self, x: dict[str, Tensor]) -> Tensor:
        m = self.model
        memory, capacity = m.condition(x)
        out = ops.value_decode(
            memory, m.decoder, m.token_values, max_tokens=m.steps, window=m.window, mixup=m.mixup, readout=m.readout,
            monotone=self.monotone, capacity=capacity,
        )  # fmt: skip
        return out.value[:, None]

    def predict(
        self,
        x: dict[str, Tensor],
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean", "greedy"] = "median",  # type: ignore[override]
    ) -> Tensor:
        """The median (best for absolute error) or mean (for squared error) of ``n`` draws, or the greedy decoding, ``[B]``."""
        if statistic == "greedy":
            return self._in_batches(x, row_ids, 1, lambda rows, _: self._greedy(rows))[:, 0]
        if statistic not in ("median", "mean"):
            raise ValueError(f"statistic: expected 'median', 'mean' or 'greedy', got {statistic!r}")
        return super().predict(x, n, seed, row_ids, statistic)
