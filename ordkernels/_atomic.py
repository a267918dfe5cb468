"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["replace", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write beside `path`, which then takes its name: whenever the process ends, `path` is the old file or the new one."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes) -> None:
    """A file with these bytes, which others may read."""
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
