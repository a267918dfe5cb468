"""Encoders of a batch's ids, dense features and histories, which all models share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation.flags import with_flags
from .._validation.numbers import integer, one_of, positive_sizes
from ..nn import QuantileEncoder
from ..nn._mlp import MLP
from ._adamw import IdEmbedding
from ._checks import INPUT_KEYS, check_batch, check_dtype, check_ids, check_target, require_keys
from ._noise import LossNoise

__all__ = ["ContextEncoder", "EncoderConfig", "FeatureEncoder", "check_probability"]


@dataclass(frozen=True)
class EncoderConfig:
    """How ids and histories are encoded.

    Attributes:
        encoder: ``"residual"``: the quantiles of both histories go straight into a residual network, with all other features;
            ``"transformer"`` (FlowTime's and DiffoR's papers) or ``"mlp"``: each history is first encoded in a few numbers.
        user_history: False takes the user's history away.
        item_history: False takes the item's history away.
        pattern_width: width of one side's encoded history.
        trunk_width: width of the residual network.
        trunk_blocks: of the residual network, two dense layers each.
        id_width: width of the id embeddings.
        id_dropout: how often an id is hidden in training, so that the embedding of an unseen id, zero, means "unknown".
        history_dropout: how often a history is hidden in training, so that rows without one are no surprise.

    Raises:
        ValueError: sizes below 1, probabilities outside [0, 1).
    """

    encoder: Literal["residual", "transformer", "mlp"] = "residual"
    user_history: bool = True
    item_history: bool = True
    pattern_width: int = 16
    trunk_width: int = 256
    trunk_blocks: int = 1
    id_width: int = 8
    id_dropout: float = 0.8
    history_dropout: float = 0.1

    def __post_init__(self) -> None:
        one_of("encoder", self.encoder, ("residual", "transformer", "mlp"))
        positive_sizes(pattern_width=self.pattern_width, id_width=self.id_width, trunk_width=self.trunk_width)
        integer("trunk_blocks", self.trunk_blocks, least=0)
        check_probability(id_dropout=self.id_dropout, history_dropout=self.history_dropout)


def check_probability(**probabilities: float) -> None:
    """``ValueError`` for a dropout outside [0, 1)."""
    for name, p in probabilities.items():
        if not 0 <= p < 1:
            raise ValueError(f"{name}: expected a probability in [0, 1), got {p}")


class ResidualTrunk(nn.Module):
    """Features ``[B, inputs]`` to ``[B, outputs]``: a dense layer, blocks ``x + Linear(dropout(silu(Linear(norm(x)))))``, a dense layer.

    Args:
        inputs: columns.
        width: of the blocks.
        outputs: columns of the result.
        blocks: their number, at least 0.
        dropout: of the blocks' hidden layers.

    Source: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, with layer norm.
    """

    def __init__(self, inputs: int, width: int, outputs: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), MLP(width, width, width, dropout)) for _ in range(blocks))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.output(x)
        return out


class FeatureEncoder(nn.Module):
    """Ids, dense features and both histories to two vectors: patterns ``h [B, 2 d]`` and a context ``[B, hidden]``.

    The context is a network of everything, or, with ``patterns_in_context=False``, of all but the histories; ``encoder="residual"``
    gives it their quantiles (``log1p``, standardised by those of ``overall``) and flags, and has its patterns from all features (of
    the histories alone with ``patterns_in_context=False``), the others give it the patterns. Embeddings of ids start at zero. A
    history that is hidden in training has its flag cleared and its quantiles replaced by ``overall``, as the loaders do for rows
    without one; what the quantiles of a row without a history hold does not matter, NaN included.

    Args:
        n_users: rows of the user embedding.
        n_items: rows of the item embedding.
        dense_width: columns of ``dense``.
        hidden: width of the context.
        quantiles: L, of the histories.
        dropout: of the context's hidden layer.
        config: of ids and histories.
        patterns_in_context: False leaves the histories out of the context.
        patterns: False leaves them out of the result, ``[B, 0]``, where no module is needed for the context.

    Raises:
        ValueError: sizes below 1, a dropout outside [0, 1).
    """

    overall: Tensor  # [L], quantiles of the training targets

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        *,
        hidden: int = 64,
        quantiles: int = 20,
        dropout: float = 0.2,
        config: EncoderConfig | None = None,
        patterns_in_context: bool = True,
        patterns: bool = True,
    ) -> None:
        super().__init__()
        positive_sizes(n_users=n_users, n_items=n_items, hidden=hidden)
        integer("dense_width", dense_width, least=0)
        check_probability(dropout=dropout)
        config = config or EncoderConfig()
        self.config, self.patterns_in_context = config, patterns_in_context
        self.user_embedding = IdEmbedding(n_users, config.id_width)
        self.item_embedding = IdEmbedding(n_items, config.id_width)
        nn.init.zeros_(self.user_embedding.weight)
        nn.init.zeros_(self.item_embedding.weight)
        self.width, self.pattern_width = hidden, 2 * config.pattern_width
        self.register_buffer("overall", torch.zeros(quantiles))
        width = dense_width + 2 * config.id_width
        self.whole = config.encoder == "residual" and patterns_in_context  # patterns of all features
        if config.encoder == "residual":
            width += 2 * (quantiles + 1) if patterns_in_context else 0
            outputs = hidden + (self.pattern_width if self.whole and patterns else 0)
            self.trunk: nn.Module = ResidualTrunk(width, config.trunk_width, outputs, config.trunk_blocks, dropout)
        else:
            width += self.pattern_width if patterns_in_context else 0
            self.trunk = MLP(width, 2 * hidden, hidden, dropout)
        self.encodes_histories = not self.whole and (patterns or patterns_in_context)
        if self.encodes_histories:
            kind: Literal["transformer", "mlp"] = "transformer" if config.encoder == "transformer" else "mlp"
            self.user_pattern = QuantileEncoder(quantiles, config.pattern_width, encoder=kind, heads=1)
            self.item_pattern = QuantileEncoder(quantiles, config.pattern_width, encoder=kind, heads=1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(context [B, hidden], patterns h [B, 2 d], has_user [B], has_item [B])``, the flags after hiding histories."""
        q_user, has_user = self._history("user", batch, self.config.user_history)
        q_item, has_item = self._history("item", batch, self.config.item_history)
        ids = self._ids("user", self.user_embedding, batch), self._ids("item", self.item_embedding, batch)
        dense = batch["dense"].to(q_user.dtype)
        if self.whole:
            histories = self._standardised(q_user), self._standardised(q_item), has_user[:, None], has_item[:, None]
            out = self.trunk(torch.cat((dense, *ids, *histories), dim=1))
            return out[:, : self.width], out[:, self.width :], has_user, has_item
        h = q_user[:, :0]
        if self.encodes_histories:
            h = torch.cat((self.user_pattern(q_user, has_user), self.item_pattern(q_item, has_item)), dim=1)
        return self.trunk(torch.cat((dense, *ids, *((h,) if self.patterns_in_context else ())), dim=1)), h, has_user, has_item

    def _standardised(self, q: Tensor) -> Tensor:
        usual = torch.log1p(self.overall)
        return (torch.log1p(q) - usual.mean()) / (usual.std(correction=0) + 1e-3)

    def _ids(self, name: str, table: nn.Embedding, batch: dict[str, Tensor]) -> Tensor:
        ids = batch[name]
        check_ids(name, ids, table.num_embeddings)
        e: Tensor = table(ids)
        if not self.training or not self.config.id_dropout:
            return e
        return e * (LossNoise(batch, e).uniform(len(ids), 1) >= self.config.id_dropout)

    def _history(self, side: str, batch: dict[str, Tensor], used: bool) -> tuple[Tensor, Tensor]:
        q, p = batch[f"q_{side}"], self.config.history_dropout
        check_dtype(f"q_{side}", q, self.overall.dtype)
        flag = batch[f"has_{side}"].to(q.dtype)
        if not used:
            flag = torch.zeros_like(flag)
        elif self.training and p:
            flag = flag * (LossNoise(batch, flag).uniform(len(flag)) >= p)
        return torch.where(flag[:, None] > 0, q, self.overall.to(q.dtype)), flag


class ContextEncoder(nn.Module):
    """One vector per row, ``[B, hidden]``, from whatever a batch holds.

    With ids, histories and dense features (``n_users``, ``n_items`` above 0): ``FeatureEncoder``. With none (both 0):
    the same network, or without ``encoder="residual"`` two dense layers, on ``dense`` alone. ``keys`` names what is read;
    ``check(batch)`` raises ``ValueError``, naming the key, for what is missing or misshapen, and for NaN or negative targets.

    Args:
        n_users: rows of the user embedding.
        n_items: rows of the item embedding.
        dense_width: columns of ``dense``.
        hidden: width of the vector.
        quantiles: L, of the histories.
        dropout: of the hidden layer.
        config: of ids and histories; flags: its fields as plain keywords.

    Raises:
        ValueError: sizes below 1, probabilities outside [0, 1).
        TypeError: unknown flags.

    Example:
        >>> ContextEncoder(0, 0, 3, hidden=8)({"dense": torch.zeros(5, 3)}).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        hidden: int = 64,
        quantiles: int = 20,
        *,
        dropout: float = 0.1,
        config: EncoderConfig | None = None,
        **flags: Any,
    ) -> None:
        super().__init__()
        (settings,) = with_flags(flags, config or EncoderConfig(), renamed={"kind": "encoder"})
        positive_sizes(hidden=hidden)
        check_probability(dropout=dropout)
        self.width = hidden
        self.dense_width, self.quantiles, self.plain = dense_width, quantiles, n_users == n_items == 0
        if self.plain:
            positive_sizes(dense_width=dense_width)
            self.keys: tuple[str, ...] = ("dense",)
            self.net: nn.Module = (
                ResidualTrunk(dense_width, settings.trunk_width, hidden, settings.trunk_blocks, dropout)
                if settings.encoder == "residual"
                else MLP(dense_width, 2 * hidden, hidden, dropout)
            )
            return
        self.keys = INPUT_KEYS
        self.net = FeatureEncoder(
            n_users, n_items, dense_width, hidden=hidden, quantiles=quantiles, dropout=dropout, config=settings, patterns=False
        )  # fmt: skip

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        if self.plain:
            check_dtype("dense", batch["dense"], next(self.net.parameters()).dtype)
            return F.silu(self.net(batch["dense"]))
        return F.silu(self.net(batch)[0])

    def check(self, batch: dict[str, Tensor], *, target: bool) -> None:
        """``ValueError`` as above; ``target``: the batch has labels too."""
        if not self.plain:
            return check_batch(batch, self.dense_width, self.quantiles, target=target)
        require_keys(batch, ("dense", "y") if target else ("dense",))
        B = batch["dense"].shape[0]
        if list(batch["dense"].shape) != [B, self.dense_width]:
            raise ValueError(f"dense: expected shape [B, {self.dense_width}], got {list(batch['dense'].shape)}")
        if target:
            check_target(batch["y"], B)
