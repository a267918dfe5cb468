"""The processes of one command: those that torchrun has started, or the one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["process_group", "torchrun_rank"]


def torchrun_rank() -> int:
    """Of this process among those of torchrun, 0 without it."""
    return int(os.environ.get("RANK", 0)) if "TORCHELASTIC_RUN_ID" in os.environ else 0


@contextmanager
def process_group() -> Iterator[None]:
    """torch.distributed's group of torchrun's processes, if it has started this one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP advises to search for unused parameters in no model, once it finds none
    import torch

    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
