"""The engine of one process: block after block."""

from __future__ import annotations

from .parts import PartFolder, PartScorer

__all__ = ["run"]


def run(folder: PartFolder, scorer: PartScorer, workers: None = None) -> None:
    """Fills in the parts that are not there.

    Args:
        folder: opened with its job.
        scorer: of the same job.
        workers: none but this process, as the other engines have them.
    """
    for k, begin, block in folder.pending(scorer):
        folder.write(k, scorer(begin, block))
