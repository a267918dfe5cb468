"""What the models share: saving, the scale of their targets, and sampling."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..samplers import Sampler, ScoringModule
from . import _pretrained
from ._checks import INPUT_KEYS
from ._encoders import FeatureEncoder

__all__ = ["GenerativeModel", "SavedModel", "TargetModel"]


class SavedModel(nn.Module):
    """A module that folders can hold: it remembers the arguments that it was made with.

    Attributes that were changed after it was made are not saved, but for parameters and buffers.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        model = super().__new__(cls)
        model.__dict__["_arguments"] = args, kwargs
        return model

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``config.json`` (class, arguments, versions, hashes) and ``model.safetensors`` (parameters and buffers).

        Args:
            directory: made if it is not there. A folder whose writing was cut short is refused by `from_pretrained`.

        Raises:
            ImportError: safetensors is not installed (the extra ``ordkernels[estimators]``).
            TypeError: made with an argument that cannot be written without pickling, as a denoiser of one's own.
            ValueError: parameters of several dtypes; the directory is a file.

        Example:
            >>> import tempfile
            >>> from ordkernels.models import DiffoR
            >>> model, x = DiffoR(dense_width=2, T=20), {"dense": torch.zeros(3, 2)}
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     torch.equal(DiffoR.from_pretrained(folder).predict(x), model.predict(x))
            True
        """
        content, tensors = _pretrained.described(self)
        _pretrained.write(directory, "model", content, {_pretrained.WEIGHTS: tensors})

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """The model that `save_pretrained` wrote, on the CPU and in eval mode, with the same predictions bit for bit.

        Args:
            directory: a folder. Its model must be of this class or one derived from it: ``GenerativeModel.from_pretrained`` takes all four.

        Raises:
            ImportError: safetensors is not installed.
            ValueError: files that are missing, damaged, changed, of a newer version, of another class or of another program.
        """
        content, files = _pretrained.read(directory, "model")
        model: Self = _pretrained.built(cls, content, files.get(_pretrained.WEIGHTS, {}), Path(directory))
        return model


class TargetModel(SavedModel):
    """A model of non-negative targets that stores, in buffers, what it must know of the training split's.

    ``prepare(train)`` takes the targets' standard deviation, largest value and quantiles from the whole split (``fit`` calls
    it); a model that is trained in a loop of the user's own takes them from its first training batch.

    ``model(batch)`` is ``model.loss(batch)``, which is what DDP and FSDP need. They average gradients over processes: to train as one
    process would on the joint batch, call ``prepare`` with the same rows in all of them, give the batches ``row_ids``, unique numbers of
    the rows, which key the loss's noise, use equal seeds and batch sizes, and set ``means_over_processes``: means over some of the rows
    or tokens then divide by their number in all processes. Dropout is each process's own.
    """

    batch_keys: tuple[str, ...] = (*INPUT_KEYS, "y")
    scale: Tensor  # standard deviation of y
    smallest: Tensor  # smallest and largest y: nothing outside of them is drawn
    largest: Tensor
    prepared: Tensor
    means_over_processes: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("smallest", torch.zeros(()))
        self.register_buffer("largest", torch.full((), 1e4))
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))
        self._is_prepared = False  # `prepared` on the host: no step asks the device for it
        self.register_load_state_dict_pre_hook(_older_keys)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss on one batch, ``loss`` (the total), and its parts."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training loss, `loss`."""
        return self.loss(batch)

    def _masked_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean over what the mask selects, 0 if that is nothing; the other values do not matter."""
        total, count = torch.where(mask, values, 0.0).sum(), mask.sum()
        if not self.means_over_processes:
            return total / count.clamp(min=1)
        torch.distributed.all_reduce(count)
        return total * torch.distributed.get_world_size() / count.clamp(min=1)

    def prepare(self, train: dict[str, Tensor]) -> None:
        """Takes what the model must know of the targets from the training split."""
        y = train["y"]
        if not len(y):
            raise ValueError("y: expected at least one training row, got none")
        with torch.no_grad():
            deviation = float(y.double().std(correction=0))
            self.scale.fill_(deviation if deviation > 0 else 1.0)
            self.smallest.fill_(float(y.min()))
            self.largest.fill_(float(y.max().clamp_min(1e-6)))
            for module in self.modules():
                if isinstance(module, FeatureEncoder):
                    L = len(module.overall)
                    levels = (np.arange(L) + 0.5) / L
                    module.overall.copy_(torch.from_numpy(np.quantile(y.detach().double().cpu().numpy(), levels)))
            self.prepared.fill_(True)
        self._is_prepared = True

    def precompute(self, train: dict[str, Tensor]) -> dict[str, Tensor]:
        """The training rows with columns that the loss would make of each batch anew; `fit` calls it after `prepare`."""
        return train

    def _prepare_on_first_batch(self, batch: dict[str, Tensor]) -> None:
        if not self._is_prepared and self.training:
            self.prepare(batch)

    def _after_loading(self) -> None:
        """Updates what is stored outside of the buffers after a state_dict was loaded."""
        self._is_prepared = bool(self.prepared)

    def _bounded_log(self, x: Tensor) -> Tensor:
        """``log1p(value / unit)`` between those of the smallest target and of twice the largest.

        Below, softplus's gradient remains: a draw can be exactly the smallest target, and need not stay there.
        """
        least, most = torch.log1p(self.smallest / self.unit), torch.log1p(2 * self.largest / self.unit)
        soft = F.softplus(x - least)
        return (least + (soft + (F.relu(x - least) - soft).detach())).clamp(max=most)

    @property
    def unit(self) -> Tensor:
        """Targets are modelled as ``log1p(y / unit)``: about one second for watch times."""
        return self.scale / 32


def _older_keys(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: object) -> None:
    """Checkpoints from before the smallest target was kept: their models draw from 0 up."""
    if f"{prefix}largest" in state:
        state.setdefault(f"{prefix}smallest", torch.zeros_like(state[f"{prefix}largest"]))


def _after_loading(module: nn.Module, _: Any) -> None:
    assert isinstance(module, TargetModel)
    module._after_loading()


class GenerativeModel(TargetModel):
    """A model that draws values from the predictive distribution of each row, by the sampler that ``sampler`` makes."""

    def sampler(self) -> Sampler[Any]:
        """A sampler with the model's own settings."""
        raise NotImplementedError

    def sample(self, x: dict[str, Tensor], n: int, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """``n`` draws for each row, ``[B, n]``, in the target's unit."""
        return self.sampler().sample(x, n, seed, row_ids)

    def predict(
        self,
        x: dict[str, Tensor],
        n: int = 32,
        seed: int = 0,
        row_ids: Tensor | None = None,
        statistic: Literal["median", "mean"] = "median",
    ) -> Tensor:
        """The median or mean of ``n`` draws, ``[B]``."""
        return self.sampler().predict(x, n, seed, row_ids, statistic)

    def scoring_module(self, **arguments: Any) -> ScoringModule:
        """``predict`` as a module of ``(row_ids, *features)``, the features in the order of ``batch_keys``: for ``torch.export``.

        Args:
            arguments: ``n``, ``seed``, ``statistic`` or ``levels`` of :class:`ordkernels.samplers.ScoringModule`.
        """
        return ScoringModule(self.sampler(), self._feature_keys(), **arguments)

    def _feature_keys(self) -> tuple[str, ...]:
        """The keys of a batch that a prediction needs."""
        return tuple(name for name in self.batch_keys if name not in ("y", "click"))

    def interval(self, x: dict[str, Tensor], level: float, n: int = 128, seed: int = 0, row_ids: Tensor | None = None) -> Tensor:
        """The central interval that holds ``level`` of ``n`` draws, ``[B, 2]``."""
        return self.sampler().interval(x, level, n, seed, row_ids)
