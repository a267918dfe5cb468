"""The programs of bench/."""

import importlib
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def programs(monkeypatch):
    """programs(*names): those modules and table.py, imported anew; none of them sets the number of threads."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)

    def imported(*names):
        for name in ("_quality", "table", *names):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return *(importlib.import_module(name) for name in names), importlib.import_module("table")

    return imported
