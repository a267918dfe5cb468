"""GR: a number as a sequence of value tokens, largest first, generated until EOS; trained on its own predictions (CLEM)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .._validation.flags import with_flags
from .._validation.numbers import one_of, positive_sizes
from .._validation.tensors import can_read_values
from ..nn import ValueDecoder
from ..nn._packing import Packing
from ..reference.value_decode import FIRST, PAD, SOS
from ..samplers import ValueSampler
from ..vocabulary import ValueVocabulary
from ._base import GenerativeModel
from ._checks import check_capacity
from ._encoders import ContextEncoder, EncoderConfig
from ._labels import DEFAULT_UNIT, encode_labels, label_tokens, suitable_unit
from ._noise import LossNoise

__all__ = ["DecodingConfig", "GRLoss", "GenerativeRegression", "VocabularyConfig", "sampling_rate"]

_PLACEHOLDER_VALUES = 54  # value tokens of a model that has seen no labels: powers of two that doubles hold
Curriculum = Literal["inverse_sigmoid", "linear", "exponential"]


def sampling_rate(curriculum: Curriculum | float, iteration: Tensor, p0: float = 1.0, omega: float = 100.0) -> Tensor:
    r"""The probability that a training input is the true token rather than a prediction, at an iteration (from 0).

    ``"inverse_sigmoid"``: ``p0 omega / (omega + exp(i / omega))``, computed as ``p0 sigmoid(ln omega - i / omega)``, which
    cannot overflow; half of ``p0`` at ``i = omega ln omega =: h``. ``"linear"``: ``p0 max(0, 1 - i / (2 h))``;
    ``"exponential"``: ``p0 2^(-i / h)``, so both are at half there too. A number is that rate throughout.

    Args:
        curriculum: a name, or the rate itself.
        iteration: ``[]`` or any shape.
        p0: the rate at the start.
        omega: above 1; larger: a slower fall.

    Returns:
        Of the iteration's shape.

    Raises:
        ValueError: an unknown name.

    Source: GR (arXiv:2412.20211), eq. 9 and section 4.5. Deviation from the paper: the common half-time.

    Example:
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


@dataclass(frozen=True)
class VocabularyConfig:
    """How GR writes targets as tokens.

    Attributes:
        vocabulary: ``"dynamic"`` (quantiles of what is left, step by step), ``"manual"`` (1-3-5 times powers of ten),
            ``"binary"`` (powers of two; its table 3), or a fitted ``ValueVocabulary``.
        unit: the vocabulary's integer unit in the target's: 0.001 writes seconds in milliseconds, 0.01 dollars in cents. None: from the
            training labels, 1 where all are whole numbers, else 0.001, or finer or coarser where their size needs it.
        tolerance: labels are written to within this share of themselves.
        max_tokens: bound on the sequence with SOS; the longest training label decides below it.

    Raises:
        ValueError: an unknown vocabulary, numbers out of range.
    """

    vocabulary: Literal["dynamic", "manual", "binary"] | ValueVocabulary = "dynamic"
    unit: float | None = None
    tolerance: float = 0.001
    max_tokens: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.vocabulary, ValueVocabulary) and self.vocabulary not in ("dynamic", "manual", "binary"):
            raise ValueError(f"vocabulary: expected 'dynamic', 'manual', 'binary' or a ValueVocabulary, got {self.vocabulary!r}")
        if self.unit is not None and (not self.unit > 0 or not math.isfinite(self.unit)):
            raise ValueError(f"unit: expected a positive number, got {self.unit}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance: expected a share in [0, 1), got {self.tolerance}")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens: expected at least 2, SOS and EOS, got {self.max_tokens}")


@dataclass(frozen=True)
class GRLoss:
    """GR's curriculum and loss.

    Attributes:
        clem: False is plain teacher forcing: one pass, predictions fed back as they are (its table 4 (b)).
        mixup: ``"window"`` (the paper's), ``"full"`` (over the whole vocabulary, as the authors' code) or None (table 4 (d));
            used in training and by greedy decoding.
        window: of mixup and of the value read out: ``window // 2`` tokens on each side.
        curriculum: how p falls, ``"inverse_sigmoid"``, ``"linear"``, ``"exponential"`` (table 4 (e), (f)), or a fixed p: 0.5
            and 0 (table 4 (g), (h)); 1 is teacher forcing with mixup at decoding alone (table 4 (c)).
        p0: as in ``sampling_rate``.
        omega: as in ``sampling_rate``.
        token_weight: of the tokens' cross-entropy.
        huber_weight: of the value's Huber loss.

    Raises:
        ValueError: unknown names, numbers out of range.
    """

    clem: bool = True
    mixup: Literal["window", "full"] | None = "window"
    window: int = 20
    curriculum: Curriculum | float = "inverse_sigmoid"
    p0: float = 1.0
    omega: float = 100.0
    token_weight: float = 10.0
    huber_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.mixup not in ("window", "full", None):
            raise ValueError(f"mixup: expected 'window', 'full' or None, got {self.mixup!r}")
        if self.window < 0:
            raise ValueError(f"window: expected at least 0, got {self.window}")
        rates = {"p0": self.p0} if isinstance(self.curriculum, str) else {"p0": self.p0, "curriculum": self.curriculum}
        for name, value in rates.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a probability in [0, 1], got {value}")
        if not self.omega > 1:
            raise ValueError(f"omega: expected a number above 1, got {self.omega}")
        if self.token_weight < 0 or self.huber_weight < 0:
            raise ValueError(f"token_weight, huber_weight: expected at least 0, got {self.token_weight}, {self.huber_weight}")
        sampling_rate(self.curriculum, torch.zeros(()), self.p0, self.omega)  # an unknown name raises here


@dataclass(frozen=True)
class DecodingConfig:
    """How GR generates sequences and reads them.

    Attributes:
        readout: of greedy decoding: ``"windowed"``, as in the loss, or ``"tokens"``, the sum of the tokens' values.
        monotone: only sequences that do not increase, as all labels' are; a deviation from the paper.
        capacity: rows have a largest value, ``capacity`` in the batch; a deviation from the paper.

    Raises:
        ValueError: an unknown readout.
    """

    readout: Literal["windowed", "tokens"] = "windowed"
    monotone: bool = True
    capacity: bool = False

    def __post_init__(self) -> None:
        one_of("readout", self.readout, ("windowed", "tokens"))


class GenerativeRegression(GenerativeModel):
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
    ``decoder.tok_emb`` and ``decoder.linear``: they change in place, so an optimizer may exist already, but call
    ``prepare`` before wrapping the model for distributed training. Labels are encoded on the host, batch by batch, but where the batch
    has ``label_tokens``, as the columns of ``precompute`` have it; ``fit`` calls that once.

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
        n_users: rows of the user embedding; 0 for plain tables.
        n_items: rows of the item embedding; 0 for plain tables.
        dense_width: columns of ``dense``.
        hidden: width of the memory vector and of the decoder (its d_model).
        layers: of the decoder.
        attention_heads: of the decoder.
        ffn: hidden units of the decoder's feed-forward parts.
        quantiles: L, of the histories.
        dropout: of the context encoder and the decoder.
        vocabulary_config: how targets are written.
        loss_config: curriculum and weights of the loss.
        decoding_config: how sequences are generated and read.
        encoder_config: of ids and histories.
        flags: fields of the four configs as plain keywords: ``GenerativeRegression(..., unit=0.01, mixup=None)``.

    Raises:
        ValueError: unknown names, sizes below 1, probabilities out of range, malformed batches, and labels that the
            vocabulary cannot write.
        TypeError: unknown flags.

    Source: GR (arXiv:2412.20211), sections 3.2 to 3.5, tables 3 and 4. Deviations from the paper: the common encoder of
    this package stands for its feed-forward one; ``monotone`` and ``capacity``.

    Example:
        >>> train = {"dense": torch.randn(64, 2), "y": torch.arange(64) * 1.5}
        >>> model = GenerativeRegression(dense_width=2, unit=0.01)
        >>> model.prepare(train)
        >>> model.predict({"dense": train["dense"]}, n=64, row_ids=torch.arange(64)).shape
        torch.Size([64])
    """

    vocabulary_values: Tensor  # in units, descending
    vocabulary_unit: Tensor  # the float64's bits: a cast of the model to another floating type leaves it alone
    token_values: Tensor  # [V], in the target's unit
    longest: Tensor  # sequence, SOS and EOS counted
    iteration: Tensor

    def __init__(
        self,
        n_users: int = 0,
        n_items: int = 0,
        dense_width: int = 1,
        hidden: int = 64,
        layers: int = 2,
        attention_heads: int = 4,
        ffn: int = 256,
        quantiles: int = 20,
        *,
        dropout: float = 0.1,
        vocabulary_config: VocabularyConfig | None = None,
        loss_config: GRLoss | None = None,
        decoding_config: DecodingConfig | None = None,
        encoder_config: EncoderConfig | None = None,
        **flags: Any,
    ) -> None:
        super().__init__()
        writing, loss, decoding, encoder = with_flags(
            flags,
            vocabulary_config or VocabularyConfig(),
            loss_config or GRLoss(),
            decoding_config or DecodingConfig(),
            encoder_config or EncoderConfig(),
            renamed={"heads": "attention_heads"},
        )
        positive_sizes(hidden=hidden, layers=layers, attention_heads=attention_heads, ffn=ffn)
        self.loss_config, self.window = loss, loss.window
        self.mixup = loss.mixup if loss.clem else None
        self.curriculum: Curriculum | float = loss.curriculum if loss.clem else 1.0
        self.readout, self.monotone, self.capacity = decoding.readout, decoding.monotone, decoding.capacity
        self.tolerance, self.max_tokens = writing.tolerance, writing.max_tokens
        self.encoder = ContextEncoder(n_users, n_items, dense_width, hidden, quantiles, dropout=dropout, config=encoder)
        self.batch_keys = (*self.encoder.keys, *(("capacity",) if self.capacity else ()), "y")
        vocabulary = writing.vocabulary
        self.vocabulary_from = vocabulary if isinstance(vocabulary, str) else "argument"
        self._given_unit = writing.unit
        unit = DEFAULT_UNIT if writing.unit is None else writing.unit
        placeholder = ValueVocabulary(2 ** np.arange(_PLACEHOLDER_VALUES), unit=unit)  # until prepare has seen labels
        self.register_buffer("vocabulary_values", torch.empty(0, dtype=torch.int64))
        self.register_buffer("vocabulary_unit", _bits(unit))
        self.register_buffer("longest", torch.tensor(self.max_tokens))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.decoder = ValueDecoder(placeholder.size, hidden, attention_heads, ffn, layers, dropout=dropout)
        self.longest_sequence, self._vocabulary = self.max_tokens, placeholder
        self.token_values = torch.from_numpy(placeholder.token_values)
        self._use(placeholder if isinstance(vocabulary, str) else vocabulary)
        self.register_load_state_dict_pre_hook(_resize_for_checkpoint)  # type: ignore[no-untyped-call]

    @staticmethod
    def likelihood() -> dict[str, Any]:
        """Arguments with which the tokens' cross-entropy alone is trained, on true tokens: the recipe for draws and intervals.

        ``GenerativeRegression(..., **GenerativeRegression.likelihood())`` learns the conditionals ``P(s_t | x, s_<t)`` that draws are made
        from. With the paper's curriculum the tokens are predicted from predictions, and the Huber loss pulls on what only greedy
        decoding reads: good for ``statistic="greedy"``, no distribution to draw from.
        """
        return {"clem": False, "huber_weight": 0.0}

    @staticmethod
    def paper_loss() -> dict[str, Any]:
        """Arguments of the paper's training, which are the defaults: CLEM, and Huber's loss of the value."""
        return {"clem": True, "huber_weight": 1.0}

    @property
    def vocabulary(self) -> ValueVocabulary:
        """The vocabulary in use, from the buffers: so that of the checkpoint, once one is loaded."""
        return self._vocabulary

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Fits the vocabulary, unless one was passed, so that it can write all labels; finds the longest sequence of the training split."""
        super().prepare(train)
        y = train["y"].detach().double().cpu().numpy()
        if self.vocabulary_from != "argument":
            unit = suitable_unit(y) if self._given_unit is None else self._given_unit
            by_name = {"manual": ValueVocabulary.manual, "binary": ValueVocabulary.binary}
            vocabulary = by_name.get(self.vocabulary_from, ValueVocabulary.fit)(y, unit=unit)
            self._use(vocabulary.covering(y, self.max_tokens, self.tolerance))
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
        self._move_token_values()
        self.longest_sequence = int(self.longest)
        _resize(self.decoder, len(self.token_values))

    def _move_token_values(self) -> None:
        """To where the weights are; never narrower than fp32, which milliseconds of an hour need."""
        weight = self.decoder.linear.weight
        if not weight.is_meta:
            self.token_values = self.token_values.to(weight.device, torch.float64 if weight.dtype == torch.float64 else torch.float32)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:  # to another device or dtype
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._move_token_values()
        return self

    def _after_loading(self) -> None:  # after a state_dict was loaded
        super()._after_loading()
        self._restore()

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss on one batch, and its parts: ``loss`` (the total), ``tokens``, ``huber``, ``p``."""
        self.encoder.check(batch, target=True)
        self._prepare_on_first_batch(batch)
        y = batch["y"]
        tokens = self._tokens(y, batch.get("label_tokens"))  # [B, T]
        p = sampling_rate(self.curriculum, self.iteration, self.loss_config.p0, self.loss_config.omega)
        memory = self.encoder(batch)
        written = tokens != PAD
        packing = Packing.of(written) if self.decoder.kernel_serves(memory) else None
        logits = self._logits(tokens, memory, p, LossNoise(batch, memory), packing)  # [B, T, V], or packed, [N, V]
        aims = tokens if packing is None else packing.pack(tokens)
        value = ops.windowed_value(logits, self.token_values, window=self.window)  # [B, T] or [N]
        entropy = F.cross_entropy(logits.flatten(0, -2), aims.flatten(), reduction="none").view(aims.shape)
        if packing is not None:
            value, entropy = packing.unpack(value), packing.unpack(entropy)
        value = torch.where(written, value, 0.0).sum(dim=1)
        parts = {"tokens": self._masked_mean(entropy, written), "huber": F.huber_loss(value, y.to(value.dtype), delta=1.0)}
        if self.training:
            self.iteration += 1
        total = self.loss_config.token_weight * parts["tokens"] + self.loss_config.huber_weight * parts["huber"]
        return {"loss": total, **{k: v.detach() for k, v in parts.items()}, "p": p}

    def precompute(self, train: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows with their labels' tokens, ``label_tokens [N, T]``, which `loss` then does not encode."""
        tokens, longest = encode_labels(train["y"], self._vocabulary, self.max_tokens, self.tolerance)
        return {**train, "label_tokens": tokens[:, :longest].contiguous().to(train["y"].device)}

    def _tokens(self, y: Tensor, encoded: Tensor | None = None) -> Tensor:
        """Labels ``[B]`` as tokens ``[B, T]``, then EOS and PAD, T no longer than this batch needs, where reading that is free."""
        if encoded is not None:
            if encoded.dim() != 2 or len(encoded) != len(y):
                raise ValueError(f"label_tokens: expected [B, T] with B = {len(y)}, got {list(encoded.shape)}")
            tokens = encoded.to(y.device, torch.int64)
            return tokens[:, : int((tokens != PAD).sum(1).max())] if len(y) and can_read_values(tokens) else tokens
        if torch.compiler.is_compiling():
            unit, longest = self._vocabulary.unit or 1.0, self.longest_sequence
            traced: Tensor = label_tokens(y.detach(), self.vocabulary_values, unit, longest, self.tolerance)
            return traced
        found, longest = encode_labels(y, self._vocabulary, self.max_tokens, self.tolerance)
        return found[:, :longest].to(y.device, torch.int64)

    def _logits(self, tokens: Tensor, memory: Tensor, p: Tensor, random: LossNoise, packing: Packing | None) -> Tensor:
        """The logits that the loss is on, those of the second pass, where there are two: ``[B, T, V]``, or packed, ``[N, V]``."""
        embed, E = self.decoder.tok_emb, self.decoder.tok_emb.weight
        inputs = F.pad(tokens[:, :-1], (1, 0), value=SOS)

        def packed(x: Tensor) -> Tensor:
            return x if packing is None else packing.pack(x)

        def decoded(x: Tensor) -> Tensor:
            logits: Tensor = (
                self.decoder(x, memory) if packing is None else self.decoder.packed(x, memory, packing.offsets, padded=packing.padded)
            )
            return logits

        shape, inputs = inputs.shape, packed(inputs)
        first = decoded(inputs)
        if not isinstance(self.curriculum, str) and self.curriculum == 1:
            return first
        if self.mixup is None:
            fed = embed(first.argmax(dim=-1))
        else:
            fed = ops.embedding_mixup(first, E, window=self.window if self.mixup == "window" else None)
        true = packed(random.uniform(*shape) < p)
        return decoded(self.decoder.second_pass(inputs, fed, true))

    def condition(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The memory vectors ``[B, M]`` of the rows, and their capacities ``[B]``, if there are any."""
        self.encoder.check(x, target=False)
        check_capacity(x, self.capacity)
        return self.encoder(x), x["capacity"] if self.capacity else None

    def sampler(self) -> ValueSampler:
        """``samplers.ValueSampler`` with its defaults."""
        return ValueSampler(self)

    def predict(
        self,
        x: dict[str, Tensor],
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean", "greedy"] = "median",
    ) -> Tensor:
        """The median or mean of ``n`` draws, or the greedy decoding (the paper's prediction), ``[B]``."""
        return self.sampler().predict(x, n, seed, row_ids, statistic)


def _bits(unit: float) -> Tensor:
    return torch.tensor(unit, dtype=torch.float64).view(torch.int64)


def _resize(decoder: ValueDecoder, V: int) -> None:
    """Gives the embedding and the output layer V tokens, in place: an optimizer created before still has its parameters."""
    old = len(decoder.tok_emb.weight)
    if old == V:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        more = max(V - old, 1)
        added = nn.Embedding(more, decoder.d_model), nn.Linear(decoder.d_model, more)
        for parameter, new in (
            (decoder.tok_emb.weight, added[0].weight),
            (decoder.linear.weight, added[1].weight),
            (decoder.linear.bias, added[1].bias),
        ):
            parameter.data = torch.cat((parameter.data, new.to(parameter)))[:V].clone()
            parameter.grad = None
    decoder.tok_emb.num_embeddings = decoder.linear.out_features = decoder.vocab_size = V


def _resize_for_checkpoint(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: object) -> None:
    """Before a checkpoint is loaded: the vocabulary's and the decoder's sizes become the checkpoint's."""
    assert isinstance(module, GenerativeRegression)
    values = state.get(f"{prefix}vocabulary_values")
    if values is not None:
        module.vocabulary_values = module.vocabulary_values.new_ones(len(values))
        _resize(module.decoder, FIRST + len(values))
