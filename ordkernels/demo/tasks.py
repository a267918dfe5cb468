"""The demo's data sets: KuaiRand's watch times, and the tables of ``data.ordinal`` and ``data.cdnow``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..data import cdnow, kuairand_sessions, n_ids, ordinal, ordinal_names
from ..data.piecewise_linear import with_bins
from .evaluation import Split

__all__ = ["Task", "load"]


@dataclass(frozen=True)
class Task:
    """Both splits, and what an entry needs to know to train on one of them."""

    name: str  # "kuairand", "cdnow" or a name of ``data.ordinal``
    title: str
    unit: str  # of y
    train: Split
    test: Split
    n_users: int  # 0: a plain table
    n_items: int
    discrete: bool  # y is one of a few labels
    seed: int
    quick: bool
    draws: int  # per row, of the models that draw
    numbers: int | None = None  # the first columns of "dense", before their bins; None: all of them

    @property
    def grouped(self) -> bool:
        """Rows belong to users and items, with histories."""
        return self.n_users > 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """``n_users, n_items, dense_width``: the first arguments of the models."""
        return self.n_users, self.n_items, self.train["dense"].shape[1]

    def every(self, n: int) -> Task:
        """The same with every n-th training row."""
        return self if n == 1 else replace(self, train={name: v[::n] for name, v in self.train.items()})


def load(data: str | Path | None, seed: int, quick: bool) -> Task:
    """Load a data set.

    Args:
        data: None or ``"kuairand"``, another data set's name, or a folder with KuaiRand-Pure.
        seed: Seeds the split of a table.
        quick: Fewer test rows and draws.

    Raises:
        FileNotFoundError: Neither a known name nor such a folder.
    """
    name = "kuairand" if data is None else str(data)
    if name == "cdnow" or name in ordinal_names():
        train, test = cdnow(split=seed) if name == "cdnow" else ordinal(name, split=seed)
        title = "CDNOW: a customer's first year, from the first day" if name == "cdnow" else f"{name}, of the tabular ordinal suite"
        unit = "dollars" if name == "cdnow" else ""
        return _with_bins(Task(name, title, unit, train, test, 0, 0, name != "cdnow", seed, quick, draws=32 if quick else 64))
    try:
        train, test = kuairand_sessions(None if name == "kuairand" else name)
    except FileNotFoundError as error:
        if name == "kuairand" or Path(name).is_dir():
            raise
        raise FileNotFoundError(f"{error}. Data sets: kuairand, cdnow, {', '.join(ordinal_names())}") from None
    if quick:
        test = {key: v[::8] for key, v in test.items()}
    users, items = n_ids(*({name: part[name] for name in ("user", "item")} for part in (train, test)))  # of the log
    return _with_bins(Task("kuairand", "KuaiRand-Pure", "s", train, test, users, items, False, seed, quick, draws=32))


def _with_bins(task: Task) -> Task:
    """Its dense columns' quantile bins beside them, where there are enough rows for that."""
    train, test = with_bins(task.train, task.test)
    return replace(task, train=train, test=test, numbers=task.train["dense"].shape[1])
