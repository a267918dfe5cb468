"""Published models of watch time, on the same encoder as the generative ones: CREAD, TPM, WLR, D2Q, EGMN.

Each is an encoder, a head and one of ``target_codecs``. Deviations from the papers, whose networks and loss weights are of
their products: targets are divided by their standard deviation, and weights are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._validation.numbers import integer, one_of
from ...nn._eval_mode import eval_mode, inference
from ...nn._mlp import MLP
from .._base import TargetModel
from .._checks import check_target, require_keys
from .._encoders import ContextEncoder
from .target_codecs import (
    DurationQuantiles,
    adaptive_edges,
    mixture_mean,
    mixture_nll,
    odds_weights,
    quantiles_of,
    survival_expectation,
    survival_labels,
    tree_expectation,
    tree_labels,
)

__all__ = ["CREAD", "D2Q", "EGMN", "TPM", "WLR"]


class WatchTimeModel(TargetModel):
    """An encoder and a head of two layers. ``flags``: ``ContextEncoder``'s."""

    duration = False  # is the batch's duration read?

    def __init__(self, n_users: int, n_items: int, dense_width: int, outputs: int, hidden: int, quantiles: int, flags: dict[str, Any]):
        super().__init__()
        self.encoder = ContextEncoder(n_users, n_items, dense_width, hidden, quantiles, **flags)
        self.head = MLP(hidden, 2 * hidden, outputs)
        self.batch_keys = (*self.encoder.keys, *(("duration",) if self.duration else ()), "y")

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars; ``"loss"`` is the total."""
        self._check(batch, target=True)
        self._prepare_on_first_batch(batch)
        return self._losses(self._out(batch), batch["y"].to(self.scale.dtype), batch)

    @inference
    def predict(self, x: dict[str, Tensor], *, batch_size: int = 8192) -> Tensor:
        """Predictions ``[B]``, non-negative, in the target's unit."""
        return self._by_batches(x, batch_size, self._read)

    def _by_batches(
        self, x: dict[str, Tensor], batch_size: int, read: Callable[[Tensor, dict[str, Tensor]], Tensor], *shape: int
    ) -> Tensor:
        """``read(output, batch) -> [b, *shape]`` of all rows, in eval mode."""
        self._check(x, target=False)
        with eval_mode(self):
            parts = [{k: v[i : i + batch_size] for k, v in x.items()} for i in range(0, len(x["dense"]), batch_size)]
            return torch.cat([read(self._out(part), part) for part in parts]) if parts else x["dense"].new_empty(0, *shape)

    def _out(self, batch: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.head(self.encoder(batch))
        return out.to(self.scale.dtype)  # of another dtype under autocast

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def _check(self, batch: dict[str, Tensor], *, target: bool) -> None:
        self.encoder.check(batch, target=target)
        if not self.duration:
            return
        require_keys(batch, ("duration",))
        check_target(batch["duration"], len(batch["dense"]), "duration")


class CREAD(WatchTimeModel):
    """M classifiers ``P(y > c_m)`` at CREAD's adaptive edges, and the sum that restores a number from them.

    Loss: cross-entropy summed over the classifiers, ``restoration`` times the Huber loss of the restored number (over y's
    standard deviation), and ``order`` times what ``P(y > c_{m+1})`` exceeds ``P(y > c_m)`` by. Logits are relative to the
    training split's shares (a deviation from the paper: with one head for M thresholds of all rarities, training would spend
    its first epochs on learning those).

    Batches: ``ContextEncoder.keys`` and ``y [B]``.

    Args:
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: L, of the histories.
        intervals: M.
        alpha: of `adaptive_edges`.
        restoration: weight of the restored number's Huber loss.
        order: weight of what the probabilities rise by.
        flags: ``ContextEncoder``'s, ``dropout`` and the fields of ``EncoderConfig``.

    Raises:
        ValueError: counts out of range and malformed batches.
        TypeError: unknown flags.

    Source: Sun et al., "CREAD: A Classification-Restoration Framework with Error Adaptive Discretization for Watch Time
    Prediction in Video Recommender Systems", AAAI 2024. The weights of the losses are not checked against its code.

    Example:
        >>> CREAD(0, 0, dense_width=2).batch_keys
        ('dense', 'y')
    """

    edges: Tensor
    prior: Tensor  # [M]: log-odds of y > c_m

    def __init__(self, n_users: int, n_items: int, dense_width: int, hidden: int = 64, quantiles: int = 20, *, intervals: int = 32,
                 alpha: float = 2.0, restoration: float = 1.0, order: float = 0.1, **flags: Any) -> None:  # fmt: skip
        integer("intervals", intervals, least=1)
        super().__init__(n_users, n_items, dense_width, intervals, hidden, quantiles, flags)
        self.alpha, self.restoration, self.order = alpha, restoration, order
        self.register_buffer("edges", torch.linspace(0, 1, intervals + 1))
        self.register_buffer("prior", torch.zeros(intervals))

    def prepare(self, train: dict[str, Tensor]) -> None:
        super().prepare(train)
        y = train["y"].to(self.edges.dtype)
        self.edges.copy_(adaptive_edges(y, len(self.edges) - 1, self.alpha))
        above = len(y) - torch.searchsorted(y.sort().values, self.edges[1:].to(y.device), right=True)
        share = (above + 0.5) / (len(y) + 1)  # none above the last: half a row
        self.prior.copy_(share.logit())

    def _out(self, batch: dict[str, Tensor]) -> Tensor:
        return super()._out(batch) + self.prior

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        p = out.sigmoid()
        classes = F.binary_cross_entropy_with_logits(out, survival_labels(y, self.edges), reduction="none").sum(dim=1).mean()
        restored = F.huber_loss(survival_expectation(p, self.edges) / self.scale, y / self.scale)
        order = F.relu(p.diff(dim=1)).sum(dim=1).mean()
        loss = classes + self.restoration * restored + self.order * order
        return {"loss": loss, "classes": classes, "restoration": restored, "order": order}

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return survival_expectation(out.sigmoid(), self.edges)


class TPM(WatchTimeModel):
    """A full binary tree over intervals of equal mass, a classifier at each node; predicts the mean over the leaves.

    Loss: cross-entropy summed along the target's path, ``regression`` times the Huber loss of the mean and ``variance`` times
    the leaves' variance (both over y's standard deviation). A leaf's value is the mean of its
    training targets (a deviation from the paper, whose value, the middle of the interval, overshoots in the last one's long
    tail).

    Batches: ``ContextEncoder.keys`` and ``y [B]``.

    Args:
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: L, of the histories.
        depth: of the tree, ``2^depth`` leaves.
        regression: weight of the mean's Huber loss.
        variance: weight of the leaves' variance.
        flags: ``ContextEncoder``'s, ``dropout`` and the fields of ``EncoderConfig``.

    Raises:
        ValueError: a depth out of 1..12 and malformed batches.
        TypeError: unknown flags.

    Source: Lin et al., "Tree based Progressive Regression Model for Watch-Time Prediction in Short-video Recommendation",
    KDD 2023; without its backdoor adjustment for duration.

    Example:
        >>> TPM(0, 0, dense_width=2).batch_keys
        ('dense', 'y')
    """

    edges: Tensor
    values: Tensor

    def __init__(self, n_users: int, n_items: int, dense_width: int, hidden: int = 64, quantiles: int = 20, *, depth: int = 5,
                 regression: float = 1.0, variance: float = 0.02, **flags: Any) -> None:  # fmt: skip
        if not 1 <= depth <= 12:
            raise ValueError(f"depth: expected 1 to 12, got {depth}")
        super().__init__(n_users, n_items, dense_width, 2**depth - 1, hidden, quantiles, flags)
        self.regression, self.variance = regression, variance
        self.register_buffer("edges", torch.linspace(0, 1, 2**depth + 1))
        self.register_buffer("values", torch.linspace(0, 1, 2**depth))

    def prepare(self, train: dict[str, Tensor]) -> None:
        super().prepare(train)
        y, L = train["y"].detach().to(self.edges.dtype).contiguous(), len(self.values)
        edges = quantiles_of(y, torch.linspace(0, 1, L + 1, dtype=torch.float64, device=y.device)).to(y.dtype)
        self.edges.copy_(edges)
        leaf = torch.searchsorted(edges[1:-1].contiguous(), y, right=True)
        rows = torch.bincount(leaf, minlength=L)
        sums = torch.bincount(leaf, weights=y.double(), minlength=L)
        middle = (edges[1:] + edges[:-1]).double() / 2  # of a leaf between equal edges, which has no rows
        self.values.copy_(torch.where(rows > 0, sums / rows.clamp(min=1), middle))

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        turns, path = tree_labels(y, self.edges)
        classes = (F.binary_cross_entropy_with_logits(out, turns, reduction="none") * path).sum(dim=1).mean()
        mean, variance = tree_expectation(out, self.values / self.scale)
        regression = F.huber_loss(mean, y / self.scale)
        loss = classes + self.regression * regression + self.variance * variance.mean()
        return {"loss": loss, "classes": classes, "regression": regression, "variance": variance.mean()}

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return tree_expectation(out, self.values)[0]


class WLR(WatchTimeModel):
    """Weighted logistic regression, whose odds are the prediction (in units of y's standard deviation while training).

    ``positives="every"``: each row is both a positive of weight y and a negative of weight 1, so the odds are ``E[y]``.
    ``"finished"``: the classic form, with videos played to their end (``y >= duration > 0``) as the clicks: weight y, the others
    1; the odds are near ``E[y]`` only where few are finished.

    Batches: ``ContextEncoder.keys``, ``y [B]``, and for ``"finished"`` ``duration [B]``.

    Args:
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: L, of the histories.
        positives: ``"every"`` or ``"finished"``.
        flags: ``ContextEncoder``'s, ``dropout`` and the fields of ``EncoderConfig``.

    Raises:
        ValueError: another ``positives`` and malformed batches.
        TypeError: unknown flags.

    Source: Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016.

    Example:
        >>> WLR(0, 0, dense_width=2).batch_keys
        ('dense', 'y')
    """

    def __init__(self, n_users: int, n_items: int, dense_width: int, hidden: int = 64, quantiles: int = 20, *,
                 positives: Literal["every", "finished"] = "every", **flags: Any) -> None:  # fmt: skip
        one_of("positives", positives, ("every", "finished"))
        self.duration = positives == "finished"
        super().__init__(n_users, n_items, dense_width, 1, hidden, quantiles, flags)
        self.positives = positives

    def _check(self, batch: dict[str, Tensor], *, target: bool) -> None:
        if target:
            return super()._check(batch, target=True)
        self.encoder.check(batch, target=False)  # predicting needs no duration

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        clicked = (batch["y"] >= batch["duration"]) & (batch["duration"] > 0) if self.duration else None
        positive, negative = odds_weights(y / self.scale, clicked)
        z = out[:, 0]
        return {"loss": (positive * F.softplus(-z) + negative * F.softplus(z)).mean()}

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return out[:, 0].clamp(max=(2 * self.largest / self.scale).log()).exp() * self.scale


class D2Q(WatchTimeModel):
    """Regression of the target's rank among videos of about the same duration, read back through that group's quantiles.

    Batches: ``ContextEncoder.keys``, ``duration [B]`` and ``y [B]``.

    Args:
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: L, of the histories.
        groups: of durations, as in `DurationQuantiles`.
        knots: of a group's table.
        objective: ``"squared"`` (the paper's) or ``"absolute"``, whose minimiser is the median's rank.
        flags: ``ContextEncoder``'s, ``dropout`` and the fields of ``EncoderConfig``.

    Raises:
        ValueError: counts out of range, another objective and malformed batches.
        TypeError: unknown flags.

    Source: Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation", KDD 2022.

    Example:
        >>> D2Q(0, 0, dense_width=2).batch_keys
        ('dense', 'duration', 'y')
    """

    duration = True

    def __init__(self, n_users: int, n_items: int, dense_width: int, hidden: int = 64, quantiles: int = 20, *, groups: int = 30,
                 knots: int = 100, objective: Literal["squared", "absolute"] = "squared", **flags: Any) -> None:  # fmt: skip
        one_of("objective", objective, ("squared", "absolute"))
        super().__init__(n_users, n_items, dense_width, 1, hidden, quantiles, flags)
        self.objective, self.table = objective, DurationQuantiles(groups, knots)

    def prepare(self, train: dict[str, Tensor]) -> None:
        super().prepare(train)
        require_keys(train, ("duration",))
        self.table.fit(train["y"], train["duration"])

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = out[:, 0].sigmoid() - self.table(y, batch["duration"])
        return {"loss": (error.square() if self.objective == "squared" else error.abs()).mean()}

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return self.table.inverse(out[:, 0].sigmoid(), batch["duration"])


class EGMN(WatchTimeModel):
    """A mixture of one exponential (quick skips) and K Gaussians (the rest), in units of y's standard deviation; predicts its mean.

    Loss: the negative log-likelihood, less ``entropy`` times the entropy of the batch's mean weights (no component starves),
    plus ``regression`` times the absolute error of the mean.

    Batches: ``ContextEncoder.keys`` and ``y [B]``.

    Args:
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the networks.
        quantiles: L, of the histories.
        components: K, at least 1.
        entropy: weight of the entropy of the batch's mean weights.
        regression: weight of the mean's absolute error.
        flags: ``ContextEncoder``'s, ``dropout`` and the fields of ``EncoderConfig``.

    Raises:
        ValueError: counts out of range and malformed batches.
        TypeError: unknown flags.

    Source: Zhao et al., "Multi-granularity distribution modeling for video watch time prediction via exponential-Gaussian mixture
    network", RecSys 2025, for the mixture and the three terms; their weights here are not checked against its code.

    Example:
        >>> EGMN(0, 0, dense_width=2).batch_keys
        ('dense', 'y')
    """

    least = 0.01  # of a scale or deviation: zeros of y make the likelihood unbounded

    def __init__(self, n_users: int, n_items: int, dense_width: int, hidden: int = 64, quantiles: int = 20, *, components: int = 4,
                 entropy: float = 0.1, regression: float = 1.0, **flags: Any) -> None:  # fmt: skip
        integer("components", components, least=1)
        super().__init__(n_users, n_items, dense_width, 3 * components + 2, hidden, quantiles, flags)
        self.components, self.entropy, self.regression = components, entropy, regression
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():  # centres spread over the targets' range, or they would learn to be one
            last.bias[components + 2 : 2 * components + 2] = torch.linspace(-2, 2, components)

    def mixture(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(logits [B, K+1], scale [B], mu [B, K], sigma [B, K])``, the last three in units of ``self.scale``."""
        self._check(x, target=False)
        return self._split(self._out(x))

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        K = self.components
        logits, scale, mu, sigma = out.split((K + 1, 1, K, K), dim=1)
        return logits, F.softplus(scale[:, 0]) + self.least, F.softplus(mu), F.softplus(sigma) + self.least

    def _losses(self, out: Tensor, y: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, scale, mu, sigma = self._split(out)
        nll = mixture_nll(y / self.scale, logits, scale, mu, sigma).mean()
        shares = logits.softmax(dim=1).mean(dim=0)
        entropy = -torch.xlogy(shares, shares).sum()
        regression = F.l1_loss(mixture_mean(logits, scale, mu), y / self.scale)
        return {
            "loss": nll - self.entropy * entropy + self.regression * regression,
            "nll": nll,
            "entropy": entropy,
            "regression": regression,
        }

    def _read(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        logits, scale, mu, _ = self._split(out)
        return mixture_mean(logits, scale, mu) * self.scale
