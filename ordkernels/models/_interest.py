"""What iFusion and the pooling baselines share: encoders of long histories and of sessions, heads, checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .._validation.numbers import positive_sizes
from .._validation.tensors import can_read_values
from ..nn import SessionFilters
from ..nn._mlp import MLP, copies_of_rows, has_hooks
from ..nn._packing import Packing, in_whole_blocks, offsets_of
from ..nn.transformer import TransformerLayer
from ..samplers.fusion import InterestSampler
from ._adamw import IdEmbedding
from ._base import GenerativeModel
from ._checks import check_weights, require_keys
from ._encoders import ContextEncoder, EncoderConfig
from .target_transforms import TargetMap

__all__ = ["InterestModel", "Interests", "PredictionLoss", "SequenceConfig", "SequenceEncoder"]

_SEQUENCES = ("long", "sessions")


class Interests(NamedTuple):
    """What a row's interest is fused from, and what its predictions are conditioned on."""

    long: Tensor  # [B, D], normalised; 0 without a history
    has_long: Tensor  # [B] bool
    items: Tensor  # encoded, projected: [B, P, S, D], or packed, [N, D], those alone that the mask selects
    mask: Tensor  # [B, P, S] bool: is there an item
    target: Tensor  # [B, D], the embedded item
    context: Tensor  # [B, C]

    @property
    def present(self) -> Tensor:
        """Sessions that have items, ``[B, P]``."""
        return self.mask.any(dim=2)

    def read_by(self, filters: SessionFilters) -> tuple[Tensor, Tensor]:
        """Both readings of each session, ``[B, P, D]``; what those of a session without items are does not matter."""
        if self.items.dim() == 4:
            return filters(self.items, self.mask)  # type: ignore[no-any-return]
        B, P, _ = self.mask.shape
        lengths = self.mask.sum(2).flatten()
        if filters.training:
            where, offsets = _present(lengths)
            core, transient = (v.new_zeros(B * P, v.shape[1]).index_copy(0, where, v) for v in filters(self.items, offsets=offsets))
        else:  # those without items too: a dense layer rounds by its number of rows
            core, transient = filters(self.items, offsets=offsets_of(lengths))
        return core.view(B, P, -1), transient.view(B, P, -1)

    def last_session(self) -> Tensor:
        """The mean of its items, ``[B, D]``, without their gradient; 0 where there are none."""
        items, there = self.items.detach(), self.mask[:, -1, :, None]
        if items.dim() == 4:
            total = torch.where(there, items[:, -1], 0.0).sum(1)
        else:
            row, session, _ = self.mask.nonzero().unbind(1)
            last = session == self.mask.shape[1] - 1
            total = items.new_zeros(len(there), items.shape[1]).index_add(0, row[last], items[last])
        return total / there.sum(1).clamp(min=1)


class SequenceEncoder(nn.Module):
    """A pre-norm Transformer encoder of padded sequences: ``x [N, L, D]``, ``mask [N, L]`` bool -> ``[N, L, D]``.

    Learned positions are counted from the end that ``mask`` leaves, so the last token is always at the same one. Masked tokens
    have no effect, as long as they are finite; the output at masked positions is arbitrary, but finite.

    Args:
        width: D, a multiple of ``heads``.
        positions: their number; all tokens that are further from the end share the last one.
        layers: of the Transformer.
        heads: of the attention.
        dropout: of what each part of a layer adds.

    Raises:
        ValueError: sizes below 1, a width that the heads do not divide.

    Example:
        >>> import torch
        >>> SequenceEncoder(64, positions=10)(torch.randn(3, 10, 64), torch.rand(3, 10) < 0.7).shape
        torch.Size([3, 10, 64])
    """

    def __init__(self, width: int, positions: int, *, layers: int = 1, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        positive_sizes(width=width, positions=positions, layers=layers, heads=heads)
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads = {heads}, got {width}")
        self.position = nn.Embedding(positions, width)
        nn.init.normal_(self.position.weight, std=0.1)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        last = self.position.num_embeddings - 1
        following = mask.flip(1).cumsum(1).flip(1) - 1  # tokens that come after
        x = x + self.position(following.clamp(0, last))
        if self.kernel_serves(x):
            packing = Packing.of(mask)
            return packing.unpack(self._layers(packing.pack(x), packing.offsets, padded=packing.padded))
        visible = (mask | ~mask.any(1, keepdim=True))[:, None, None]  # [N, 1, 1, L]: an empty sequence attends to itself: no NaN
        for layer in self.layers:
            x = layer(x, visible)
        out: Tensor = self.norm(x)
        return out

    def kernel_serves(self, x: Tensor) -> bool:
        """Whether ``packed`` runs on a kernel and means what this module's layers do."""
        layers: Any = self.layers
        return not has_hooks(self) and all(layer.kernel_serves(x) for layer in layers)

    def packed(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Sequences one after the other, nothing padded: ``tokens [N, D]``, ``offsets [S + 1]`` -> ``[N, D]``."""
        N, lengths = len(tokens), offsets.diff()
        following = torch.repeat_interleave(offsets[1:], lengths, output_size=N) - 1 - torch.arange(N, device=tokens.device)
        return self._layers(tokens + self.position(following.clamp(max=self.position.num_embeddings - 1)), offsets)

    def _layers(self, tokens: Tensor, offsets: Tensor, *, padded: bool = False) -> Tensor:
        layers: Any = self.layers
        for layer in layers:
            tokens = layer.packed(tokens, offsets, padded=padded)
        out: Tensor = self.norm(tokens)
        return out


def _rising(logits: Tensor) -> Tensor:
    """``[..., L + 1]`` -> ``[..., L]``, rising in (0, 1)."""
    return logits.softmax(-1).cumsum(-1)[..., :-1].clamp(max=1.0)


def _present(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Of sequences of some lengths: which are not empty, ``[M]``, and the offsets of those, ``[M + 1]``."""
    where = lengths.nonzero()[:, 0]
    return where, offsets_of(lengths[where])


@dataclass(frozen=True)
class SequenceConfig:
    """The parts of histories and sessions that are read, and the heads.

    Attributes:
        long: the most items of the history that are read.
        feedback_width: features of each item of a session; 0: none.
        attention_heads: of the Transformers.
        levels: L, quantiles of the head for a number.
        context: False hides all but the item, the history and the sessions from the heads.

    Raises:
        ValueError: sizes below 1, a feedback_width below 0.
    """

    long: int = 50
    feedback_width: int = 3
    attention_heads: int = 4
    levels: int = 32
    context: bool = True

    def __post_init__(self) -> None:
        positive_sizes(long=self.long, attention_heads=self.attention_heads, levels=self.levels)
        if self.feedback_width < 0:
            raise ValueError(f"feedback_width: expected at least 0, got {self.feedback_width}")


@dataclass(frozen=True)
class PredictionLoss:
    """Weights of the predictions' losses.

    Attributes:
        click_weight: of the click head's cross-entropy; 0 takes it away, and ``click`` with it.
        number_weight: of the number head's pinball losses; 0 takes them away.

    Raises:
        ValueError: weights below 0, or both 0.
    """

    click_weight: float = 1.0
    number_weight: float = 1.0

    def __post_init__(self) -> None:
        check_weights(click_weight=self.click_weight, number_weight=self.number_weight)
        if not self.click_weight + self.number_weight > 0:
            raise ValueError("click_weight, number_weight: expected one of them above 0, got both 0")


class InterestModel(GenerativeModel):
    """Encoders and heads; a subclass fuses the interests and says how draws are made from fused vectors.

    The click head is an MLP of the fused vector, the row's item, their product, the context and two flags (is there a history,
    is there a session). The head for a number gives the quantiles of mapped targets at levels ``(l - 1/2) / L``: the partial
    sums of a softmax, so they rise, lie in (0, 1), and are the training targets' own before training; it is trained by the mean
    pinball loss, that is half the CRPS of the distribution with these quantiles, of mapped targets plus of targets over their
    standard deviation.
    """

    levels: Tensor  # [L]

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dense_width: int,
        latent: int,
        hidden: int,
        sessions: int,
        quantiles: int,
        *,
        dropout: float,
        sequence: SequenceConfig,
        loss: PredictionLoss,
        encoder: EncoderConfig,
    ) -> None:
        super().__init__()
        positive_sizes(n_users=n_users, n_items=n_items, latent=latent, hidden=hidden, sessions=sessions)
        D, L, self.n_items = latent, sequence.levels, n_items
        self.latent, self.session_count, self.long_length, self.feedback_width = latent, sessions, sequence.long, sequence.feedback_width
        self.click_weight, self.number_weight, self.use_context = loss.click_weight, loss.number_weight, sequence.context
        self.encoder = ContextEncoder(n_users, n_items, dense_width, hidden, quantiles, dropout=dropout, config=encoder)
        self.item_embedding = IdEmbedding(n_items + 1, D, padding_idx=0)
        with torch.no_grad():
            self.item_embedding.weight.mul_(0.1)
        self.feedback = nn.Linear(sequence.feedback_width, D) if sequence.feedback_width else None
        self.long_encoder = SequenceEncoder(D, sequence.long, layers=2, heads=sequence.attention_heads, dropout=dropout)
        self.session_encoder = SequenceEncoder(D, 64, layers=1, heads=sequence.attention_heads, dropout=dropout)
        self.project = nn.Linear(D, D)
        width = 3 * D + hidden + 2
        self.click_head = MLP(width, 2 * hidden, 1, dropout)
        self.number_head = MLP(width, 2 * hidden, L + 1, dropout)
        self.target = TargetMap("quantile")
        self.register_buffer("levels", (torch.arange(L) + 0.5) / L, persistent=False)
        optional = (("feedback",) if self.feedback_width else ()) + (("click",) if self.click_weight else ())
        self.batch_keys = (*self.encoder.keys, *_SEQUENCES, *optional, "y")

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Fits the map of targets on the whole training split."""
        super().prepare(train)
        self.target.fit(train["y"])

    def interests(self, batch: dict[str, Tensor], sessions: int) -> Interests:
        """The encoded rows, with their last ``sessions`` sessions."""
        long, ids = self._last_items(batch["long"].long()), batch["sessions"][:, -sessions:].long()  # [B, M], [B, P, S]
        feedback = None if self.feedback is None else batch["feedback"][:, -sessions:]
        packs = can_read_values(long) and all(
            e.kernel_serves(self.item_embedding.weight) for e in (self.long_encoder, self.session_encoder)
        )
        h, items, target = (self._packed if packs else self._padded)(long, ids, batch["item"] + 1, feedback)
        context = self.encoder(batch)
        if not self.use_context:
            context = torch.zeros_like(context)
        has_long = (long > 0).any(1)
        h = F.layer_norm(h, (self.latent,)) * has_long[:, None]  # entries of unit size, as the noise's
        return Interests(h, has_long, in_whole_blocks(self.project, items), ids > 0, target, context)

    def _padded(self, long: Tensor, sessions: Tensor, target: Tensor, feedback: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Means of encoded histories ``[B, D]``, encoded sessions ``[B, P, S, D]``, embedded items ``[B, D]``."""
        mask = long > 0
        h = self.long_encoder(self.item_embedding(long), mask)
        h = torch.where(mask[..., None], h, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        present, items = sessions > 0, self.item_embedding(sessions)
        if feedback is not None:
            assert self.feedback is not None
            items = items + self.feedback(torch.where(present[..., None], feedback.to(items.dtype), 0.0))
        items = self.session_encoder(items.flatten(0, 1), present.flatten(0, 1)).view(items.shape)
        return h, items, self.item_embedding(target)

    def _packed(self, long: Tensor, sessions: Tensor, target: Tensor, feedback: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the items alone that exist, one after the other: sessions ``[N, D]``. In scoring a history that follows itself, as
        where many items are ranked for a user, is encoded once; in training each has a dropout of its own."""
        differs = (long[1:] != long[:-1]).any(1) | self.training
        new = F.pad(differs, (min(len(long), 1), 0), value=True)
        long = long[new]
        mask, present = long > 0, sessions > 0
        ids = long[mask], sessions[present], target
        history, items, embedded = self.item_embedding(torch.cat(ids)).split([len(i) for i in ids])
        lengths = mask.sum(1)
        tokens = self.long_encoder.packed(history, offsets_of(lengths))
        row = torch.repeat_interleave(torch.arange(len(long), device=long.device), lengths, output_size=len(tokens))
        h = tokens.new_zeros(len(long), self.latent).index_add(0, row, tokens) / lengths.clamp(min=1)[:, None]
        h = h if len(h) == len(new) else h[new.cumsum(0) - 1]
        if feedback is not None:
            assert self.feedback is not None
            items = items + in_whole_blocks(self.feedback, feedback[present].to(items.dtype))
        items = self.session_encoder.packed(items, _present(present.sum(2).flatten())[1])
        return h, items, embedded

    def _last_items(self, ids: Tensor) -> Tensor:
        """The last ``long_length`` items of longer histories, padding last."""
        if ids.shape[1] <= self.long_length:
            return ids
        count = (ids > 0).sum(1, keepdim=True)
        where = (count - self.long_length).clamp(min=0) + torch.arange(self.long_length, device=ids.device)
        return ids.gather(1, where)

    def _read(self, heads: Sequence[MLP], fused: Tensor, parts: Interests, row: Tensor | None = None) -> list[Tensor]:
        """What heads make of ``fused [B, D]``, ``[B, n, D]``, or ``[N, D]`` of rows ``row [N]``."""
        flags = torch.stack((parts.has_long, parts.present.any(1)), dim=1).to(fused.dtype)
        target, rest = parts.target, torch.cat((parts.context, flags), dim=1)
        if fused.dim() == 3:
            (B, n, D), product = fused.shape, fused * target[:, None]
            if all(type(head) is MLP and not has_hooks(head) and head.served(fused) for head in heads):
                own, shared = torch.cat((fused, product), dim=2).flatten(0, 1), torch.cat((target, rest), dim=1)
                which, _ = copies_of_rows(B, n, fused.device)
                return [head.with_shared(own, shared, which, (D, D, D, rest.shape[1])).view(B, n, -1) for head in heads]
            rest, target = (v[:, None].expand(-1, n, -1) for v in (rest, target))
        else:
            rest, target = (v if row is None else v[row] for v in (rest, target))
            product = fused * target
        features = torch.cat((fused, target, product, rest), dim=-1)
        return [head(features) for head in heads]

    def click_logit(self, fused: Tensor, parts: Interests, row: Tensor | None = None) -> Tensor:
        """Log-odds of a click, ``[B]`` or ``[B, n]``, or ``[N]`` of rows ``row [N]``."""
        return self._read([self.click_head], fused, parts, row)[0][..., 0]

    def number_ranks(self, fused: Tensor, parts: Interests, row: Tensor | None = None) -> Tensor:
        """Quantiles of mapped targets at ``levels``, ``[B, L]`` or ``[B, n, L]``, or ``[N, L]`` of rows ``row [N]``, rising in (0, 1)."""
        return _rising(self._read([self.number_head], fused, parts, row)[0])

    def _prediction_loss(self, fused: Tensor, parts: Interests, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``click`` and ``number``, each ``[]`` of one fused vector a row, ``[B, D]``, or ``[n]`` of n, ``[B, n, D]``."""
        out, n = {}, fused.shape[1:-1]
        heads = {"click": self.click_head} if self.click_weight else {}
        heads |= {"number": self.number_head} if self.number_weight else {}
        read = dict(zip(heads, self._read(list(heads.values()), fused, parts), strict=True))
        if self.click_weight:
            logit = read["click"][..., 0]
            click = batch["click"].to(fused.dtype).view(-1, *[1] * len(n)).expand_as(logit)
            out["click"] = F.binary_cross_entropy_with_logits(logit, click, reduction="none").mean(0)
        if self.number_weight:
            ranks, y = _rising(read["number"]), batch["y"].to(fused.dtype)
            r, levels = ranks.flatten(0, -2), self.levels.to(ranks.dtype)
            aims = self.target(y).to(r.dtype), y / self.scale
            found = r, self.target.inverse(r).to(r.dtype) / self.scale
            losses = [ops.pinball(q, aim.repeat_interleave(n.numel()), levels) for q, aim in zip(found, aims, strict=True)]
            out["number"] = torch.add(*losses).view(ranks.shape).mean((0, -1))
        return out

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        weights = {"click": self.click_weight, "number": self.number_weight}
        return torch.stack([weights[name] * p for name, p in parts.items()]).sum()

    def check(self, batch: dict[str, Tensor], *, target: bool) -> None:
        """``ValueError``, naming the key, for what is missing, misshapen or out of range."""
        self.encoder.check(batch, target=target)
        require_keys(batch, tuple(name for name in self.batch_keys if target or name not in ("y", "click")))
        B = batch["dense"].shape[0]
        for name, dims in (("long", 2), ("sessions", 3)):
            ids = batch[name]
            if ids.dim() != dims or ids.shape[0] != B:
                raise ValueError(f"{name}: expected {'[B, M]' if dims == 2 else '[B, P, S]'} with B = {B}, got {list(ids.shape)}")
            if ids.is_floating_point():
                raise TypeError(f"{name}: expected integers, got {ids.dtype}")
            if ids.numel() and can_read_values(ids) and not 0 <= int(ids.min()) <= int(ids.max()) <= self.n_items:
                raise ValueError(f"{name}: expected item + 1 in [1, {self.n_items}] or 0, got {int(ids.min())} to {int(ids.max())}")
        if self.feedback_width:
            shape = [*batch["sessions"].shape, self.feedback_width]
            if list(batch["feedback"].shape) != shape:
                raise ValueError(f"feedback: expected shape {shape}, got {list(batch['feedback'].shape)}")
        if target and self.click_weight:
            click = batch["click"]
            if list(click.shape) != [B]:
                raise ValueError(f"click: expected shape [{B}], got {list(click.shape)}")
            if can_read_values(click) and not bool(((click == 0) | (click == 1)).all()):
                raise ValueError("click: expected 0 and 1, got others")

    def sampler(self) -> InterestSampler[Any]:
        """A sampler with the model's own settings."""
        raise NotImplementedError

    def fuse(self, x: dict[str, Tensor], n: int = 1, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` fused interests of each row, ``[B, n, D]``."""
        return self.sampler().fuse(x, n, seed, row_ids)

    def predict_click(self, x: dict[str, Tensor], n: int = 1, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The probability of a click, ``[B]``: the mean over ``n`` fused interests."""
        return self.sampler().predict_click(x, n, seed, row_ids)
