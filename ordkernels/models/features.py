"""What FlowTime and its baselines share: the encoder of features and histories, the batch checks, the target scale."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._validation.numbers import positive_sizes
from ..nn import QuantileEncoder

__all__ = ["FeatureEncoder", "TargetModel", "check_batch", "check_nonnegative", "check_target"]

_INPUTS = ("user", "item", "dense", "q_user", "q_item", "has_user", "has_item")


def check_batch(batch: dict[str, Tensor], dense_width: int, quantiles: int, *, target: bool) -> None:
    """``ValueError``, naming the key, for a missing key, a wrong shape, and NaN or negative targets."""
    for name in (*_INPUTS, "y") if target else _INPUTS:
        if name not in batch:
            raise ValueError(f"batch: expected the key {name!r}, got {', '.join(sorted(batch)) or 'no keys'}")
    B = len(batch["user"])
    widths = {"dense": dense_width, "q_user": quantiles, "q_item": quantiles}
    for name in (*_INPUTS, "y") if target else _INPUTS:
        shape = [B, widths[name]] if name in widths else [B]
        if list(batch[name].shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {list(batch[name].shape)}")
    if target:
        check_target(batch["y"], B)


def check_target(y: Tensor, B: int, name: str = "y") -> None:
    """``ValueError`` for a wrong shape, and on the CPU as `check_nonnegative`: to look at a GPU's values would have every step wait."""
    if list(y.shape) != [B]:
        raise ValueError(f"{name}: expected shape {[B]}, got {list(y.shape)}")
    if y.device.type == "cpu":
        check_nonnegative(name, y)


def check_nonnegative(name: str, y: Tensor) -> None:
    """``ValueError`` for NaN, infinite or negative values ``[N]``."""
    bad = torch.nonzero(~(y >= 0) | torch.isinf(y))[:1].flatten().tolist()
    if bad:
        raise ValueError(f"{name}: expected finite values of at least 0, got {float(y[bad[0]])} at row {bad[0]}")


class FeatureEncoder(nn.Module):
    """Ids, dense features and both histories to two vectors: patterns ``h [B, 2d]`` and a context ``[B, hidden]``.

    The context is an MLP of everything, or, with ``patterns_in_context=False``, of all but the patterns.

    Ids have embeddings that start at zero and are dropped whole with probability ``id_dropout``, so that zero comes to
    mean "unknown id" and ids unseen in training are read as such. In training a history is dropped with probability
    ``history_dropout`` (its flag cleared, its quantiles replaced by ``overall``, as the loader does for rows without
    one), so that rows without a history are no surprise. ``user_history=False`` / ``item_history=False`` take a
    side's history away for good.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        *,
        hidden: int = 64,
        quantiles: int = 20,
        id_width: int = 8,
        pattern_width: int = 16,
        encoder: Literal["transformer", "mlp"] = "transformer",
        user_history: bool = True,
        item_history: bool = True,
        dropout: float = 0.2,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
        patterns_in_context: bool = True,
    ) -> None:
        super().__init__()
        positive_sizes(n_users=n_users, n_items=n_items, dense_width=dense_width, hidden=hidden, id_width=id_width)
        for name, p in (("dropout", dropout), ("id_dropout", id_dropout), ("history_dropout", history_dropout)):
            if not 0 <= p < 1:
                raise ValueError(f"{name}: expected a probability in [0, 1), got {p}")
        self.user_history, self.item_history = user_history, item_history
        self.id_dropout, self.history_dropout = id_dropout, history_dropout
        self.user_embedding = nn.Embedding(n_users, id_width)
        self.item_embedding = nn.Embedding(n_items, id_width)
        nn.init.zeros_(self.user_embedding.weight)
        nn.init.zeros_(self.item_embedding.weight)
        self.patterns_in_context = patterns_in_context
        width = dense_width + 2 * id_width + (2 * pattern_width if patterns_in_context else 0)
        self.trunk = nn.Sequential(nn.Linear(width, 2 * hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden))
        self.user_pattern = QuantileEncoder(quantiles, pattern_width, kind=encoder, heads=1)
        self.item_pattern = QuantileEncoder(quantiles, pattern_width, kind=encoder, heads=1)
        self.overall: Tensor
        self.register_buffer("overall", torch.zeros(quantiles))
        self.width, self.pattern_width = hidden, 2 * pattern_width

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(context [B, hidden], patterns h [B, 2d], has_user [B], has_item [B])``, the flags after dropping histories."""
        q_user, has_user = self._history(batch["q_user"], batch["has_user"], self.user_history)
        q_item, has_item = self._history(batch["q_item"], batch["has_item"], self.item_history)
        h = torch.cat((self.user_pattern(q_user, has_user), self.item_pattern(q_item, has_item)), dim=1)
        ids = (self._ids(self.user_embedding, batch["user"]), self._ids(self.item_embedding, batch["item"]))
        inputs = (batch["dense"].to(h.dtype), *ids, *((h,) if self.patterns_in_context else ()))
        return self.trunk(torch.cat(inputs, dim=1)), h, has_user, has_item

    def _ids(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        e = table(ids)
        if not self.training or not self.id_dropout:
            return e
        return e * (torch.rand(len(ids), 1, device=e.device) >= self.id_dropout)

    def _history(self, q: Tensor, has: Tensor, used: bool) -> tuple[Tensor, Tensor]:
        keep = has.to(q.dtype)
        if not used:
            keep = torch.zeros_like(keep)
        elif self.training and self.history_dropout:
            keep = keep * (torch.rand_like(keep) >= self.history_dropout)
        return torch.where(keep[:, None] > 0, q, self.overall.to(q.dtype)), keep


class TargetModel(nn.Module):
    """A model of non-negative targets that keeps, as buffers, what it must know of the training split's.

    ``prepare(train)`` takes the targets' deviation, largest value and quantiles from the whole split (``fit`` calls
    it); a model that goes straight into a loop of the user's own takes them from its first training batch.
    """

    batch_keys: tuple[str, ...] = (*_INPUTS, "y")
    scale: Tensor  # deviation of y
    largest: Tensor  # largest y
    prepared: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("largest", torch.full((), 1e4))
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))
        self._ready = False  # the same on the host: no device is asked at every step
        self.register_load_state_dict_post_hook(lambda module, _: module._note_prepared())

    def _note_prepared(self) -> None:
        self._ready = bool(self.prepared)

    def prepare(self, train: dict[str, Tensor]) -> None:
        y = train["y"]
        if not len(y):
            raise ValueError("y: expected at least one training row, got none")
        with torch.no_grad():
            spread = float(y.double().std(correction=0))
            self.scale.fill_(spread if spread > 0 else 1.0)
            self.largest.fill_(float(y.max().clamp_min(1e-6)))
            for module in self.modules():
                if isinstance(module, FeatureEncoder):
                    L = len(module.overall)
                    levels = (np.arange(L) + 0.5) / L
                    module.overall.copy_(torch.from_numpy(np.quantile(y.detach().double().cpu().numpy(), levels)))
            self.prepared.fill_(True)
        self._ready = True

    def _prepare_if_new(self, batch: dict[str, Tensor]) -> None:
        if not self._ready and self.training:
            self.prepare(batch)

    @property
    def unit(self) -> Tensor:
        """Targets are modelled as ``log1p(y / unit)``: about one second for watch times."""
        return self.scale / 32
