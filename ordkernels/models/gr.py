"""GR: a number as a sequence of value tokens, largest first, generated until EOS; trained on its own predictions (CLEM)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .._validation.numbers import positive_sizes
from ..nn import ValueDecoder
from ..samplers import ValueSampler
from ..vocabulary import ValueVocabulary
from .features import TargetModel
from .tabular import ContextEncoder

__all__ = ["GenerativeRegression", "sampling_rate"]

PAD, SOS, EOS, FIRST = 0, 1, 2, 3  # FIRST: of the value tokens, the largest
_PLACES = 54  # value tokens of a model that has seen no labels: powers of two that doubles hold
Curriculum = Literal["inverse_sigmoid", "linear", "exponential"]


def sampling_rate(curriculum: Curriculum | float, iteration: Tensor, p0: float = 1.0, omega: float = 100.0) -> Tensor:
    r"""The probability that a training input is the true token rather than a prediction, at an iteration (from 0).

    ``"inverse_sigmoid"``: ``p0 omega / (omega + exp(i / omega))``, computed as ``p0 sigmoid(ln omega - i / omega)``, which
    cannot overflow; half of ``p0`` at ``i = omega ln omega =: h``. ``"linear"``: ``p0 max(0, 1 - i / (2 h))``;
    ``"exponential"``: ``p0 2^(-i / h)``, so both are at half there too. A number is that rate throughout.

    Source: GR (arXiv:2412.20211), eq. 9 and section 4.5; the common half-time is ours.

    Example::

        >>> import math, torch
        >>> sampling_rate("inverse_sigmoid", torch.tensor(100 * math.log(100)))
        tensor(0.5000)
    """
    i = iteration.to(torch.get_default_dtype())
    if not isinstance(curriculum, str):
        return torch.full_like(i, curriculum)
    half = omega * math.log(omega)
    if curriculum == "inverse_sigmoid":
        return p0 * torch.sigmoid(math.log(omega) - i / omega)
    if curriculum == "linear":
        return p0 * (1 - i / (2 * half)).clamp(min=0)
    if curriculum == "exponential":
        return p0 * torch.exp2(-i / half)
    raise ValueError(f"curriculum: expected 'inverse_sigmoid', 'linear', 'exponential' or a probability, got {curriculum!r}")


class GenerativeRegression(TargetModel):
    r"""Generative regression: a target is written in tokens of fixed values, largest first, and a Transformer decoder
    generates them from one memory vector per row.

    .. math:: y = \sum_t g(s_t), \quad g(s_1) \ge g(s_2) \ge \dots, \quad P(y | x) = \prod_t P(s_t | x, s_{<t})

    Training with curriculum learning and embedding mixup (CLEM), two passes with the same weights: the first sees the true
    tokens; each input of the second is, with probability p, the true token (SOS always), else the first pass's prediction,
    fed back as the mixture of the embeddings around it (``mixup``), through which gradients flow. p falls along
    ``curriculum``. The loss is of the second pass alone:

        ``token_weight CE(tokens, PAD ignored) + huber_weight Huber(y, sum_t sum_{j in window} P_t(j) g(j))``

    with delta = 1 in the target's own unit, summed up to and including EOS. Inference: ``samplers.ValueSampler``.

    The vocabulary is fitted on the training targets by ``prepare``, which ``fit`` calls (without it, the first training
    batch does), and is part of the ``state_dict``, with the longest sequence and the iteration. It decides the shapes of
    ``decoder.tok_emb`` and ``decoder.linear``: they change in place, so an optimizer may be there already, but call
    ``prepare`` before wrapping the model for distributed training. Labels are encoded on the host, batch by batch.

    ========================  ===================================================================================
    batch key                 shape
    ========================  ===================================================================================
    ``y``                     ``[B]``, targets, at least 0 (not needed by the samplers)
    ``dense``                 ``[B, dense_width]``, standardised features
    ``user``, ``item``, ``q_user``, ``q_item``, ``has_user``, ``has_item``: only with ``n_users``, ``n_items`` above 0,
    as in ``FlowTime``
    ``capacity``              ``[B]``, only with ``capacity=True``: the largest value that a row's prediction may take
    ========================  ===================================================================================

    Args:
        n_users, n_items: sizes of the id tables; both 0 for plain tables.
        hidden: width of the memory vector and of the decoder (its d_model).
        layers, heads, ffn: of the decoder.
        vocabulary: ``"dynamic"`` (quantiles of what is left, step by step), ``"manual"`` (1-3-5 times powers of ten),
            ``"binary"`` (powers of two; its table 3), or a fitted ``ValueVocabulary``.
        unit: the vocabulary's integer unit in the target's: 0.001 writes seconds in milliseconds, 0.01 dollars in cents.
        tolerance: labels are written to within this share of themselves.
        max_tokens: bound on the sequence with SOS; the longest training label decides below it.
        clem: False is plain teacher forcing: one pass, predictions fed back as they are (table 4 (b)).
        mixup: ``"window"`` (the paper's), ``"full"`` (over the whole vocabulary, as the authors' code) or None (table 4 (d));
            used in training and by greedy decoding.
        window: of mixup and of the value read out: ``window // 2`` tokens on each side.
        curriculum: how p falls, ``"inverse_sigmoid"``, ``"linear"``, ``"exponential"`` (table 4 (e), (f)), or a fixed p: 0.5
            and 0 (table 4 (g), (h)); 1 is teacher forcing with mixup at decoding alone (table 4 (c)).
        p0, omega: as in ``sampling_rate``.
        readout: of greedy decoding: ``"windowed"``, as in the loss, or ``"tokens"``, the sum of the tokens' values.
        monotone: decode only sequences that do not increase, as all labels' are; ours.
        encoder: of the histories, ``"transformer"`` or ``"mlp"``; the other arguments as ``FlowTime``.

    Errors: ``ValueError`` for unknown names, sizes below 1, probabilities out of range, malformed batches, and labels that
    the vocabulary cannot write.

    Source: GR (arXiv:2412.20211), sections 3.2 to 3.5, tables 3 and 4. The common encoder of this package stands for its
    feed-forward one; ``monotone`` and ``capacity`` are ours.

    Example::

        >>> train, test = ordkernels.data.cdnow()
        >>> model = GenerativeRegression(dense_width=train["dense"].shape[1], unit=0.01)
        >>> ordkernels.models.fit(model, train, epochs=10, batch_size=512)
        >>> dollars = model.predict(test, n=64, row_ids=test["row"])
    """

    def __init__(
        self,
        n_users: int = 0,
        n_items: int = 0,
        dense_width: int = 1,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        ffn: int = 256,
        quantiles: int = 20,
        *,
        vocabulary: Literal["dynamic", "manual", "binary"] | ValueVocabulary = "dynamic",
        unit: float = 0.001,
        tolerance: float = 0.001,
        max_tokens: int = 20,
        clem: bool = True,
        mixup: Literal["window", "full"] | None = "window",
        window: int = 20,
        curriculum: Curriculum | float = "inverse_sigmoid",
        p0: float = 1.0,
        omega: float = 100.0,
        token_weight: float = 10.0,
        huber_weight: float = 1.0,
        readout: Literal["windowed", "tokens"] = "windowed",
        monotone: bool = True,
        capacity: bool = False,
        encoder: Literal["transformer", "mlp"] = "transformer",
        user_history: bool = True,
        item_history: bool = True,
        pattern_width: int = 16,
        id_width: int = 8,
        dropout: float = 0.1,
        id_dropout: float = 0.8,
        history_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        positive_sizes(hidden=hidden, layers=layers, heads=heads, ffn=ffn)
        if not isinstance(vocabulary, ValueVocabulary) and vocabulary not in ("dynamic", "manual", "binary"):
            raise ValueError(f"vocabulary: expected 'dynamic', 'manual', 'binary' or a ValueVocabulary, got {vocabulary!r}")
        if mixup not in ("window", "full", None):
            raise ValueError(f"mixup: expected 'window', 'full' or None, got {mixup!r}")
        if readout not in ("windowed", "tokens"):
            raise ValueError(f"readout: expected 'windowed' or 'tokens', got {readout!r}")
        for name, value in (("p0", p0), *((("curriculum", curriculum),) if not isinstance(curriculum, str) else ())):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a probability in [0, 1], got {value}")
        if not omega > 1:
            raise ValueError(f"omega: expected a number above 1, got {omega}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance: expected a share in [0, 1), got {tolerance}")
        if not unit > 0 or not math.isfinite(unit):
            raise ValueError(f"unit: expected a positive number, got {unit}")
        if max_tokens < 2:
            raise ValueError(f"max_tokens: expected at least 2, SOS and EOS, got {max_tokens}")
        if window < 0:
            raise ValueError(f"window: expected at least 0, got {window}")
        if token_weight < 0 or huber_weight < 0:
            raise ValueError(f"token_weight, huber_weight: expected at least 0, got {token_weight}, {huber_weight}")
        self.mixup = mixup if clem else None
        self.curriculum: Curriculum | float = curriculum if clem else 1.0
        self.window, self.p0, self.omega, self.tolerance, self.max_tokens = window, p0, omega, tolerance, max_tokens
        self.token_weight, self.huber_weight = token_weight, huber_weight
        self.readout, self.monotone, self.capacity = readout, monotone, capacity
        sampling_rate(self.curriculum, torch.zeros(()), p0, omega)  # an unknown name raises here

        self.encoder = ContextEncoder(
            n_users, n_items, dense_width, hidden, quantiles, kind=encoder, user_history=user_history, item_history=item_history,
            pattern_width=pattern_width, id_width=id_width, dropout=dropout, id_dropout=id_dropout, history_dropout=history_dropout,
        )  # fmt: skip
        self.batch_keys = (*self.encoder.keys, *(("capacity",) if capacity else ()), "y")
        self.vocabulary_kind = vocabulary if isinstance(vocabulary, str) else "given"
        placeholder = ValueVocabulary(2 ** np.arange(_PLACES), unit=unit)  # until prepare has seen labels
        self.register_buffer("vocabulary_values", torch.empty(0, dtype=torch.int64))  # in units, descending
        self.register_buffer("vocabulary_unit", _bits(unit))
        self.register_buffer("longest", torch.tensor(max_tokens))  # sequence, SOS and EOS counted
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.decoder = ValueDecoder(placeholder.size, hidden, heads, ffn, layers, dropout=dropout)
        self.steps, self._vocabulary, self.token_values = max_tokens, placeholder, torch.from_numpy(placeholder.token_values)
        self._use(vocabulary if isinstance(vocabulary, ValueVocabulary) else placeholder)
        self.register_load_state_dict_pre_hook(_make_room)

    vocabulary_values: Tensor
    vocabulary_unit: Tensor  # the float64's bits: a cast of the model to another floating type leaves it alone
    token_values: Tensor  # [V], in the target's unit
    longest: Tensor
    iteration: Tensor

    @property
    def vocabulary(self) -> ValueVocabulary:
        """The vocabulary in use, from the buffers: so that of the checkpoint, once one is loaded."""
        return self._vocabulary

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Fits the vocabulary (unless one was given) and finds the longest sequence of the training split's labels."""
        super().prepare(train)
        y = train["y"].detach().double().cpu().numpy()
        unit = self.vocabulary.unit
        if self.vocabulary_kind == "dynamic":
            self._use(ValueVocabulary.fit(y, unit=unit))
        elif self.vocabulary_kind != "given":
            make = ValueVocabulary.manual if self.vocabulary_kind == "manual" else ValueVocabulary.binary
            self._use(make(y, unit=unit))
        lengths = self.vocabulary.encode(y, self.max_tokens, self.tolerance)[1]
        self.longest.fill_(int(lengths.max()) + 2)
        self.iteration.zero_()
        self._restore()

    def _use(self, vocabulary: ValueVocabulary) -> None:
        self.vocabulary_values = torch.from_numpy(vocabulary.values.copy()).to(self.vocabulary_values.device)
        self.vocabulary_unit.copy_(_bits(vocabulary.unit or 1.0))
        self._restore()

    def _restore(self) -> None:
        """What follows from the buffers: the vocabulary, the tokens' values, the decoder's sizes, the number of steps."""
        if self.vocabulary_values.is_meta:
            return
        unit = float(self.vocabulary_unit.cpu().view(torch.float64))
        self._vocabulary = ValueVocabulary(self.vocabulary_values.cpu().numpy(), unit=unit)
        self.token_values = torch.from_numpy(self._vocabulary.token_values)
        self._place()
        self.steps = int(self.longest)
        _resize(self.decoder, len(self.token_values))

    def _place(self) -> None:
        """The tokens' values where the weights are; never narrower than fp32, which milliseconds of an hour need."""
        weight = self.decoder.linear.weight
        if not weight.is_meta:
            self.token_values = self.token_values.to(weight.device, torch.float64 if weight.dtype == torch.float64 else torch.float32)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:  # to another device or dtype
        super()._apply(*args, **kwargs)
        self._place()
        return self

    def _note_prepared(self) -> None:  # after a state_dict was loaded
        super()._note_prepared()
        self._restore()

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss on one batch, and its parts: ``loss`` (the total), ``tokens``, ``huber``, ``p``."""
        self.encoder.check(batch, target=True)
        self._prepare_if_new(batch)
        y = batch["y"]
        tokens = self._tokens(y)  # [B, T]
        p = sampling_rate(self.curriculum, self.iteration, self.p0, self.omega)
        logits = self._logits(tokens, self.encoder(batch), p)
        written = tokens != PAD
        value = ops.windowed_value(logits, self.token_values, window=self.window)  # [B, T]
        value = torch.where(written, value, 0.0).sum(dim=1)
        parts = {
            "tokens": F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=PAD),
            "huber": F.huber_loss(value, y.to(value.dtype), delta=1.0),
        }
        if self.training:
            self.iteration += 1
        total = self.token_weight * parts["tokens"] + self.huber_weight * parts["huber"]
        return {"loss": total, **{k: v.detach() for k, v in parts.items()}, "p": p}

    def _tokens(self, y: Tensor) -> Tensor:
        """Labels ``[B]`` as tokens ``[B, T]``, EOS and PAD behind them, T no longer than this batch needs."""
        tokens, lengths, _ = self._vocabulary.encode(y.detach().double().cpu().numpy(), self.max_tokens, self.tolerance)
        T = int(lengths.max(initial=0)) + 1
        return torch.from_numpy(tokens[:, :T].astype(np.int64)).to(y.device)

    def _logits(self, tokens: Tensor, memory: Tensor, p: Tensor) -> Tensor:
        """The logits that the loss is on, ``[B, T, V]``: those of the second pass, where there are two."""
        embed, E = self.decoder.tok_emb, self.decoder.tok_emb.weight
        inputs = F.pad(tokens[:, :-1], (1, 0), value=SOS)
        first = self.decoder(inputs, memory)
        if not isinstance(self.curriculum, str) and self.curriculum == 1:
            return first
        if self.mixup is None:
            fed = embed(first.argmax(dim=-1))
        else:
            fed = ops.embedding_mixup(first, E, window=self.window if self.mixup == "window" else None)
        true = torch.rand(inputs.shape, device=fed.device) < p
        return self.decoder(self.decoder.second_pass(inputs, fed, true), memory)

    # ------------------------------------------------------------------------------------------- sampling

    def condition(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The memory vectors ``[B, M]`` of the rows, and their capacities ``[B]``, if there are any."""
        self.encoder.check(x, target=False)
        if not self.capacity:
            return self.encoder(x), None
        if "capacity" not in x:
            raise ValueError(f"batch: expected the key 'capacity', got {', '.join(sorted(x))}")
        return self.encoder(x), x["capacity"]

    def sample(self, x: dict[str, Tensor], n: int, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` draws for each row, ``[B, n]``, in the target's unit."""
        return ValueSampler(self).sample(x, n, seed, row_ids)

    def predict(
        self,
        x: dict[str, Tensor],
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean", "greedy"] = "median",
    ) -> Tensor:
        """The median or mean of ``n`` draws, or the greedy decoding (the paper's prediction), ``[B]``."""
        return ValueSampler(self).predict(x, n, seed, row_ids, statistic)

    def interval(self, x: dict[str, Tensor], level: float, n: int = 128, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The central interval that holds ``level`` of ``n`` draws, ``[B, 2]``."""
        return ValueSampler(self).interval(x, level, n, seed, row_ids)


def _bits(unit: float) -> Tensor:
    return torch.tensor(unit, dtype=torch.float64).view(torch.int64)


def _resize(decoder: ValueDecoder, V: int) -> None:
    """Gives the embedding and the output layer V tokens, in place: an optimizer made before keeps its parameters."""
    old = len(decoder.tok_emb.weight)
    if old == V:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        more = max(V - old, 1)
        fresh = nn.Embedding(more, decoder.d_model), nn.Linear(decoder.d_model, more)
        for parameter, new in (
            (decoder.tok_emb.weight, fresh[0].weight),
            (decoder.linear.weight, fresh[1].weight),
            (decoder.linear.bias, fresh[1].bias),
        ):
            parameter.data = torch.cat((parameter.data, new.to(parameter)))[:V].clone()
            parameter.grad = None
    decoder.tok_emb.num_embeddings = decoder.linear.out_features = decoder.vocab_size = V


def _make_room(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: object) -> None:
    """Before a checkpoint is loaded: the vocabulary's and the decoder's sizes become the checkpoint's."""
    assert isinstance(module, GenerativeRegression)
    values = state.get(f"{prefix}vocabulary_values")
    if values is not None:
        module.vocabulary_values = module.vocabulary_values.new_ones(len(values))
        _resize(module.decoder, FIRST + len(values))
