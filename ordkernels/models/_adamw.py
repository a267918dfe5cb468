"""The optimizer of `fit` on a CPU: AdamW, the clipping of the gradients' norm and the average of the weights in one pass.

A table of ids is the larger part of many a model, and a batch reads few of its rows. AdamW moves all of them at each step: momenta fade and
weights decay where no gradient comes. Here a row makes these steps together when a batch reads it next, in the same arithmetic, so that a
step costs what its batch reads and not what the table holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn import functional as F

from .. import _backend
from .._library import has_kernel

__all__ = ["AdamW", "IdEmbedding"]

_STEPS_TOGETHER = 4096  # that a row may be behind: then all rows catch up
_ROWS_OF_A_BATCH = 32  # a table is trained by rows if it has so many times those of a batch


class IdEmbedding(nn.Embedding):
    """Embeddings that are read by calls alone, never through ``weight``: so `fit` may train the rows that a batch reads."""

    rows: _Rows | None = None  # in `fit`

    def forward(self, ids: Tensor) -> Tensor:
        if self.rows is None:
            return super().forward(ids)
        self.rows.catch_up(ids)
        return F.embedding(ids, self.weight, self.padding_idx, sparse=True)

    def __getstate__(self) -> dict[str, Any]:  # of a copy and of a pickle
        return {name: value for name, value in self.__dict__.items() if name != "rows"}


class _Rows:
    """The steps of a table's rows, each of which has made some of them."""

    def __init__(self, optimizer: AdamW, p: Tensor) -> None:
        self.optimizer, self.weight = optimizer, p
        self.last = torch.zeros(len(p), dtype=torch.int64)
        self.steps = torch.empty(_STEPS_TOGETHER, 4, dtype=torch.float64)
        self.count = 0

    def catch_up(self, ids: Tensor | None = None) -> None:
        """Brings the rows of these ids, or all, to the last step."""
        if self.count:
            self._run(None, None if ids is None else torch.unique(ids).long(), 1.0)
        if ids is None:
            self.last.zero_()
            self.count = 0

    def step(self, numbers: list[float], gradient: Tensor, scale: float) -> None:
        """One more, with the gradient of some rows, which have caught up: sparse, coalesced."""
        self.steps[self.count] = torch.tensor(numbers, dtype=torch.float64)
        self.count += 1
        self._run(gradient.values(), gradient.indices()[0], scale)
        if self.count == _STEPS_TOGETHER:
            self.catch_up()

    def _run(self, gradient: Tensor | None, rows: Tensor | None, scale: float) -> None:
        optimizer, p = self.optimizer, self.weight
        m, v = optimizer.moments(p)
        settings = *optimizer.betas, optimizer.eps
        with torch.no_grad():
            torch.ops.ordkernels.adamw_rows(
                p, m, v, optimizer.means.get(p), gradient, rows, self.last, self.steps[: self.count], scale, *settings
            )
        increment_version((p,))


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, whose state it shares, of a model's parameters; see above.

    Args:
        model: its `IdEmbedding` tables are trained by rows where they have many times the rows of a batch.
        means: averages of the parameters, in their order; none: an empty list.
        lr: learning rate.
        weight_decay: decoupled.
        largest_norm: that gradients are clipped at; ``grad`` itself stays as it is.
        batch_size: rows of a step; None: no table is trained by rows.
    """

    def __init__(
        self, model: nn.Module, means: Sequence[Tensor], lr: float, weight_decay: float, largest_norm: float, batch_size: int | None
    ) -> None:
        super().__init__(model.parameters(), lr=lr, weight_decay=weight_decay)
        (group,) = self.param_groups
        self.parameters: list[Tensor] = group["params"]
        self.means = dict(zip(self.parameters, means, strict=True)) if means else {}
        self.largest_norm, self.betas, self.eps = largest_norm, group["betas"], group["eps"]
        self.share = 0.0  # of the parameters in the next average
        self.counts = dict.fromkeys(self.parameters, 0)  # steps that were made
        self.tables: dict[Tensor, tuple[IdEmbedding, _Rows]] = {}
        for table in [module for module in model.modules() if isinstance(module, IdEmbedding)]:
            w = table.weight
            if batch_size is not None and len(w) >= _ROWS_OF_A_BATCH * batch_size and w.requires_grad:
                self.tables[w] = table, _Rows(self, w)

    @staticmethod
    def serves(model: nn.Module) -> bool:
        """Whether the kernels run, and take the model's parameters."""
        return (
            has_kernel("adamw_step", "CPU")
            and _backend.forced_backend() in (None, "cpu")
            and all(
                type(p) is nn.Parameter and p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64) and p.is_contiguous()
                for p in model.parameters()
            )
        )

    def __enter__(self) -> Self:
        for module, rows in self.tables.values():
            module.rows = rows
        return self

    def __exit__(self, *exception: object) -> None:
        self.catch_up()
        for module, _ in self.tables.values():
            module.rows = None

    def catch_up(self) -> None:
        """Brings all rows of all tables to the last step."""
        for _, rows in self.tables.values():
            rows.catch_up()

    def moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state["exp_avg"], state["exp_avg_sq"]

    def state_dict(self) -> dict[str, Any]:
        self.catch_up()
        for p, count in self.counts.items():
            if count:
                self.state[p]["step"].fill_(count)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.counts = {p: int(self.state[p]["step"]) if self.state[p] else 0 for p in self.parameters}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step along the gradients, and the next averages."""
        dense = [p for p in self.parameters if p.grad is not None and p not in self.tables]
        moments = [self.moments(p) for p in dense]
        tables = [(rows, rows.weight.grad.coalesce()) for _, rows in self.tables.values() if rows.weight.grad is not None]
        numbers = self._numbers(dense)
        scale = torch.ops.ordkernels.adamw_step(
            dense, [m for m, _ in moments], [v for _, v in moments], [self.means[p] for p in dense] if self.means else [],
            [p.grad for p in dense], [g.values() for _, g in tables],
            numbers, self.largest_norm, *self.betas, self.eps,
        )  # fmt: skip
        increment_version(dense)
        for rows, gradient in tables:
            rows.step(self._numbers([rows.weight])[0].tolist(), gradient, scale)
        left = [p for p in self.parameters if p.grad is None] if self.means else []
        if left:
            for p in left:
                if p in self.tables:
                    self.tables[p][1].catch_up()
            torch._foreach_lerp_([self.means[p] for p in left], left, self.share)

    def _numbers(self, parameters: list[Tensor]) -> Tensor:
        """What the kernels take of a step of these, ``[n, 4]``; counts it."""
        (group,) = self.param_groups
        (beta1, beta2), lr = self.betas, float(group["lr"])
        rows: dict[int, list[float]] = {}
        for p in parameters:
            s = self.counts[p] = self.counts[p] + 1
            if s not in rows:
                rows[s] = [lr * group["weight_decay"], lr / (1 - beta1**s), (1 - beta2**s) ** -0.5, self.share]
        return torch.tensor([rows[self.counts[p]] for p in parameters], dtype=torch.float64).view(-1, 4)
