"""The engine of one process: block after block."""

from __future__ import annotations

from .parts import PartFolder, PartScorer

__all__ = ["run"]


def run(folder: PartFolder, threads: int | None = None) -> None:
    """Fills in the parts that are not there.

    Args:
        folder: opened with its job.
        threads: that predict; None: torch's number.
    """
    scorer = PartScorer(folder.job, threads)
    for k, begin, block in folder.pending(scorer):
        folder.write(k, scorer(begin, block))
