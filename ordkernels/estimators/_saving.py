"""Estimators in folders: the model's weights, and what the estimator learned of its table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..models import _pretrained
from ..models._base import SavedModel
from ._features import Feature, Features, Roles
from ._past import Sessions

__all__ = ["load", "save"]

_TABLE = "table.safetensors"  # ids and the events of histories
_TYPES: dict[str, type] = {t.__name__: t for t in (Feature, Features, Roles, Sessions)}


def save(estimator: Any, directory: str | os.PathLike[str]) -> None:
    """Parameters, fitted attributes and the model of a fitted estimator."""
    model, weights = _pretrained.described(estimator.model_)
    table: dict[str, Tensor] = {}
    fitted = {
        name: value for name, value in vars(estimator).items() if name.endswith("_") and not name.startswith("_") and name != "model_"
    }
    features = {name: value for name, value in vars(fitted.pop("features_")).items() if not name.startswith("_")}
    ids = {side: _packed(list(known)) for side, known in features.pop("ids").items()}  # numbered in this order
    content = {
        "class": _pretrained.class_name(type(estimator)),
        "parameters": _encoded("parameters", estimator.get_params(deep=False), type(estimator.model_), table),
        "fitted": _encoded("fitted", fitted, type(estimator.model_), table),
        "features": _encoded("features", features, type(estimator.model_), table),
        "ids": _encoded("ids", ids, type(estimator.model_), table),
        "model": model,
    }
    _pretrained.write(directory, "estimator", content, {_pretrained.WEIGHTS: weights, _TABLE: table})


def load(base: type, directory: str | os.PathLike[str]) -> Any:
    """The estimator that `save` wrote, of a class derived from base."""
    content, files = _pretrained.read(directory, "estimator")
    folder = Path(directory)
    cls = _pretrained.saved_class(base, content.get("class"), folder / _pretrained.CONFIG)
    model = _pretrained.built(SavedModel, content["model"], files[_pretrained.WEIGHTS], folder)
    types, table = _pretrained.types_of(type(model)) | _TYPES, files[_TABLE]
    try:
        parts = {name: _pretrained.decode(content[name], types, table) for name in ("parameters", "fitted", "features", "ids")}
        estimator = cls(**parts["parameters"])
        ids = {side: {key: k for k, key in enumerate(_unpacked(packed))} for side, packed in parts["ids"].items()}
        fitted = {**parts["fitted"], "features_": Features(**parts["features"], ids=ids), "model_": model}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / _pretrained.CONFIG}: expected what {cls.__name__} saves, got {error}") from error
    vars(estimator).update(fitted)
    return estimator


def _encoded(name: str, value: Any, model: type, table: dict[str, Tensor]) -> Any:
    return _pretrained.encode(value, name, _pretrained.types_of(model) | _TYPES, table)


def _packed(texts: list[str]) -> dict[str, NDArray[Any]]:
    """Millions of ids as two arrays: their bytes, and where each ends."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {"bytes": np.frombuffer(b"".join(parts), np.uint8).copy(), "ends": np.cumsum([len(p) for p in parts], dtype=np.int64)}


def _unpacked(packed: dict[str, NDArray[Any]]) -> list[str]:
    data, ends = packed["bytes"].tobytes(), packed["ends"].tolist()
    return [data[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)]
