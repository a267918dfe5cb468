"""Puts a mutated file in the place of the original: in functions that already exist, or as its module is imported."""

import gc
import importlib.abc
import importlib.machinery
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


class Functions:
    """Every function of the given files that exists, by its code."""

    def __init__(self, files: Sequence[Path]) -> None:
        names = set(map(str, files))
        self.by_code: dict[CodeType, list[FunctionType]] = defaultdict(list)
        for f in gc.get_objects():
            if type(f) is FunctionType and f.__code__.co_filename in names:
                self.by_code[f.__code__].append(f)

    def changed(self, original: CodeType, mutated: CodeType) -> list[tuple[FunctionType, CodeType]]:
        """The functions that have to run other code for this mutation."""
        return [(f, new) for old, new in _pairs(original, mutated) if old != new for f in self.by_code.get(old, [])]


def other_closures(original: CodeType, mutated: CodeType) -> bool:
    """Whether a function would see other variables of those around it: its code cannot be replaced then."""
    pairs = list(_pairs(original, mutated))
    return any(old.co_freevars != new.co_freevars or len(_nested(old)) != len(_nested(new)) for old, new in pairs)


def _nested(code: CodeType) -> list[CodeType]:
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    yield old, new
    a, b = _nested(old), _nested(new)
    if [c.co_name for c in a] == [c.co_name for c in b]:
        for pair in zip(a, b, strict=True):
            yield from _pairs(*pair)


class MutatedImport(importlib.abc.MetaPathFinder):
    """Imports one file as the given code."""

    def __init__(self, file: Path, code: CodeType) -> None:
        self.file, self.code = str(file), code

    def install(self) -> None:
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin != self.file:
            return None
        spec.loader = _Loader(fullname, self.file, self.code)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, code: CodeType) -> None:
        super().__init__(fullname, path)
        self.mutated = code

    def get_code(self, fullname: str) -> CodeType:
        return self.mutated
