"""Folders that models are saved in: ``config.json``, which names and hashes every other file, and safetensors. Nothing is pickled.

The configuration is written last: a folder whose writing was cut short has none, or one whose hashes its files do not have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._atomic import replace
from ..vocabulary import ValueVocabulary
from ._defaults import as_saved, defaults

__all__ = ["CONFIG", "WEIGHTS", "built", "class_name", "decode", "described", "encode", "kind", "read", "saved_class", "types_of", "write"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_VERSION = 1
_TAG = "$type"
_BUFFERS, _ARGUMENTS = "buffers.", "arguments."  # tensors that are no part of the state_dict: what follows from the arguments, and in them

Tensors = dict[str, Tensor]


def write(directory: str | os.PathLike[str], kind: str, content: Mapping[str, Any], files: Mapping[str, Tensors]) -> None:
    """Writes ``files`` and then the configuration, each beside its place and renamed.

    Args:
        directory: made if it is not there; other files in it stay.
        kind: what is saved, ``"model"`` or ``"estimator"``.
        content: JSON's kinds of values.
        files: tensors by name, by the file's name.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: the directory is a file.
    """
    save = _safetensors().save
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"directory: expected a folder, or a path where one can be made, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    from .. import __version__

    config: dict[str, Any] = {
        "format": f"ordkernels.{kind}", "format_version": _VERSION, **content,
        "versions": {"ordkernels": __version__, "torch": torch.__version__},
    }  # fmt: skip
    hashes = {}
    for name, tensors in files.items():
        # a copy of its own: safetensors refuses tensors that share memory
        data = save({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()})
        replace(folder / name, data)
        hashes[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    config["files"] = hashes
    config["sha256"] = _digest(config)
    replace(folder / CONFIG, (json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read(directory: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """The configuration and the tensors of each file that `write` has written.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: files that are missing, damaged, changed, of a newer version or of another program, with the file's name.
    """
    load = _safetensors().load
    folder = Path(directory)
    path = folder / CONFIG
    config = _config(path, kind)
    files = {}
    for name, expected in config["files"].items():
        if Path(name).name != name:
            raise ValueError(f"{path}: expected names of files in the same folder, got {name!r}")
        data = _bytes(folder / name)
        if len(data) != expected["bytes"]:
            raise ValueError(f"{folder / name}: expected {expected['bytes']} bytes, as {CONFIG} says, got {len(data)}")
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise ValueError(f"{folder / name}: expected the SHA-256 in {CONFIG}, got another: the file was changed or damaged")
        try:
            files[name] = load(data)
        except Exception as error:  # the parser's own error class
            raise ValueError(f"{folder / name}: expected a safetensors file, got {error}") from error
    return config, files


def kind(directory: str | os.PathLike[str]) -> str:
    """``"model"`` or ``"estimator"``, as the folder's configuration says it is; ValueError for another folder."""
    path = Path(directory) / CONFIG
    if not Path(directory).is_dir():
        raise ValueError(f"{directory}: expected a folder that save_pretrained wrote, got {'a file' if path.parent.exists() else 'none'}")
    for found in ("model", "estimator"):
        if f'"ordkernels.{found}"'.encode() in _bytes(path):
            _config(path, found)
            return found
    raise ValueError(f"{path}: expected a saved model of ordkernels, got another file")


def _config(path: Path, kind: str) -> dict[str, Any]:
    data = _bytes(path)
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != f"ordkernels.{kind}":
        raise ValueError(f"{path}: expected a saved {kind} of ordkernels, got {'another file' if found is None else repr(found)}")
    version = config.get("format_version")
    if not isinstance(version, int) or version > _VERSION:
        written_by = (config.get("versions") or {}).get("ordkernels", "unknown")
        raise ValueError(f"{path}: expected format_version {_VERSION} at most, got {version!r} of a newer ordkernels ({written_by})")
    if config.pop("sha256", None) != _digest(config):
        raise ValueError(f"{path}: expected the SHA-256 that the file states, got another: the file was changed or damaged")
    return dict(config)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"{path}: expected a file that save_pretrained wrote, got none") from error


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            f"save_pretrained, from_pretrained: expected safetensors, got {error}. It is an optional extra: "
            "pip install 'ordkernels[estimators]', or pip install safetensors"
        ) from error
    return safetensors.torch


def class_name(cls: type) -> str:
    """A class of this package by its name, another with its module."""
    return cls.__qualname__ if cls.__module__.startswith("ordkernels.") else f"{cls.__module__}.{cls.__qualname__}"


def saved_class(base: type, name: Any, path: Path) -> Any:
    """The class of that name among base and its subclasses; no module is imported for a name in a file."""
    pending = [base]
    while pending:
        cls = pending.pop()
        if class_name(cls) == name:
            return cls
        pending.extend(cls.__subclasses__())
    raise ValueError(f"{path}: expected a {base.__name__}, got {name!r}")


def types_of(cls: type) -> dict[str, type]:
    """The dataclasses that arguments of a class may be: those that its module, and those of its bases, know by name."""
    found: dict[str, type] = {}
    for base in reversed(cls.__mro__):
        names = vars(sys.modules[base.__module__])
        found |= {name: t for name, t in names.items() if isinstance(t, type) and dataclasses.is_dataclass(t) and t.__name__ == name}
    return found


def encode(value: Any, path: str, types: Mapping[str, type], tensors: Tensors) -> Any:
    """A value as JSON; arrays and tensors go to ``tensors`` under ``path``.

    Raises:
        TypeError: a value that cannot be written without pickling, by its path.
    """

    def inner(part: Any, name: Any) -> Any:
        return encode(part, f"{path}.{name}", types, tensors)

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
    if isinstance(value, list):
        return [inner(v, k) for k, v in enumerate(value)]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "values": [inner(v, k) for k, v in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(k, str) and k != _TAG for k in value):
        return {k: inner(v, k) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return {_TAG: "objects", "values": [inner(v, k) for k, v in enumerate(value.tolist())]}
    if isinstance(value, Tensor | np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        return {_TAG: "array" if isinstance(value, np.ndarray) else "tensor", "name": path}
    if isinstance(value, ValueVocabulary):
        return {_TAG: "ValueVocabulary", "values": value.values.tolist(), "unit": value.unit}
    if dataclasses.is_dataclass(value) and types.get(type(value).__name__) is type(value):
        return {_TAG: type(value).__name__, **{f.name: inner(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}}
    raise TypeError(
        f"{path}: expected numbers, text, lists, dicts, arrays or a configuration, got {type(value).__qualname__}, which only pickling "
        "can save: keep the weights by torch.save(model.state_dict())"
    )


def decode(value: Any, types: Mapping[str, type], tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given.

    Raises:
        KeyError, TypeError, ValueError: JSON that it has not written.
    """
    if isinstance(value, list):
        return [decode(v, types, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    parts = {k: decode(v, types, tensors) for k, v in value.items() if k != _TAG}
    if _TAG not in value:
        return parts
    special: dict[str, Callable[[], Any]] = {
        "float": lambda: float(parts["value"]),
        "tuple": lambda: tuple(parts["values"]),
        "objects": lambda: np.array(parts["values"], dtype=object),
        "array": lambda: tensors[parts["name"]].numpy(),
        "tensor": lambda: tensors[parts["name"]],
        "ValueVocabulary": lambda: ValueVocabulary(np.array(parts["values"]), unit=parts["unit"]),
    }
    make = special.get(value[_TAG])
    return make() if make else types[value[_TAG]](**parts)


def described(model: Any) -> tuple[dict[str, Any], Tensors]:
    """What is saved of a ``SavedModel``: its class, arguments, the defaults of those left out, dtype, and its tensors by name."""
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if len(dtypes) > 1:
        raise ValueError(f"model: expected parameters of one dtype, got {', '.join(sorted(dtypes))}")
    cls, tensors = type(model), dict(model.state_dict())
    tensors |= {_BUFFERS + name: b for name, b in model.named_buffers() if name not in tensors}
    args, kwargs = model._arguments
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    types = types_of(cls)
    arguments = {name: encode(value, _ARGUMENTS + name, types, tensors) for name, value in given.items()}
    left_out: dict[str, Any] = {}
    for name, value in defaults(cls).items():
        if name not in given:
            with suppress(TypeError):  # of a class of one's own, a value that only pickling can save
                left_out[name] = encode(value, _ARGUMENTS + name, types, tensors)
    return {"class": class_name(cls), "dtype": next(iter(dtypes), None), "arguments": arguments, "defaults": left_out}, tensors


def built(base: type, content: Mapping[str, Any], tensors: Tensors, folder: Path) -> Any:
    """The model of `described`, of a class derived from base; ``ValueError`` with the file that does not fit."""
    cls = saved_class(base, content.get("class"), folder / CONFIG)
    try:
        types = types_of(cls)
        saved = decode(content["defaults"], types, tensors) if "defaults" in content else None
        arguments = as_saved(cls, decode(content["arguments"], types, tensors), saved)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = cls(**arguments)
        if content["dtype"] is not None:
            model.to(getattr(torch, content["dtype"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: expected arguments of {cls.__name__}, got {error}") from error
    buffers = {_BUFFERS + name: b for name, b in model.named_buffers()}
    try:
        model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith((_BUFFERS, _ARGUMENTS))})
        with torch.no_grad():
            for name in buffers.keys() & tensors.keys():
                buffers[name].copy_(tensors[name])
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS}: expected the tensors of a {cls.__name__}, got {error}") from error
    model.eval()
    return model
