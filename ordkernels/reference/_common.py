"""What the references share."""

import torch
from torch import Tensor


def compute_dtype(t: Tensor) -> torch.dtype:
    """fp32 for everything up to fp32, fp64 for fp64."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def empty_unless(asked: int, gradient: Tensor) -> Tensor:
    """The gradient if it is asked for, else an empty tensor."""
    return gradient if asked else gradient.new_empty(0)


def keep_on_host(table: Tensor) -> None:
    """Keep a table's numbers beside it, for `rows_on_host`; it must not change afterwards."""
    if table.device.type != "meta":
        table.rows_on_host = table.tolist()  # type: ignore[attr-defined]


def rows_on_host(table: Tensor) -> list[list[float]]:
    """A table's rows. Without a copy that was kept, reading them waits for the device, and breaks the capture of a CUDA graph."""
    kept: list[list[float]] | None = getattr(table, "rows_on_host", None)
    return table.tolist() if kept is None else kept
