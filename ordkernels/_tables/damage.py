"""Files that cannot be read, in one kind of error."""

import contextlib
import lzma
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["readable"]

_DAMAGED = (
    EOFError, LookupError, OSError, OverflowError, RuntimeError, SyntaxError, UnicodeDecodeError, lzma.LZMAError, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """ValueError for what readers raise on a damaged file."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{path}: expected a file that can be read, got {type(error).__name__}: {error}") from error
    except Exception as error:
        pa = sys.modules.get("pyarrow")
        if pa is None or not isinstance(error, pa.ArrowException) or isinstance(error, MemoryError):
            raise
        raise ValueError(f"{path}: expected a file that can be read, got {type(error).__name__}: {error}") from error
