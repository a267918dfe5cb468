"""What the workers of Ray and Spark do, each in a process of its own: whole parts, from reading a block to writing its file.

Only numbers travel between them: of parts to make, and texts of what went wrong. A part that was made twice, as where a worker died
after writing it, is the same file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .parts import Job, PartFolder, PartScorer

__all__ = ["PartWorker", "located", "raise_first", "spans"]


class PartWorker:
    """Makes the parts of a job that are not there; the model is loaded once.

    Args:
        path: of the folder of parts.
        job: with paths that are right on every worker.
        threads: of this worker.
    """

    def __init__(self, path: str, job: Job, threads: int) -> None:
        self._folder, self._scorer = PartFolder(Path(path), job), PartScorer(job, threads)

    def make(self, begin: int, end: int) -> str:
        """Parts begin to end; what is wrong with a block's data as text, for another try would not change it."""
        try:
            for k, first_row, block in self._folder.pending(self._scorer, range(begin, end)):
                self._folder.write(k, self._scorer(first_row, block))
        except (TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""


def located(folder: PartFolder) -> tuple[str, Job]:
    """A worker's arguments: path and job with absolute paths."""
    job = folder.job
    return str(folder.path.absolute()), replace(job, model=str(Path(job.model).absolute()), table=str(Path(job.table).absolute()))


def spans(numbers: list[int], workers: int) -> list[tuple[int, int]]:
    """First and last part of each task: several tasks a worker, of parts in a row, for a CSV file is read from its start for each."""
    size = max(1, -(-len(numbers) // (8 * workers)))
    groups = [numbers[k : k + size] for k in range(0, len(numbers), size)]
    return [(group[0], group[-1] + 1) for group in groups]


def raise_first(errors: Iterable[str]) -> None:
    """What a worker has said is wrong, as the error that it was."""
    for text in errors:
        if text:
            kind, _, message = text.partition(": ")
            raise {"TypeError": TypeError}.get(kind, ValueError)(message)
