"""The median of a history: read off its quantiles."""

import pytest
import torch

from ordkernels.models import HistoricalMedian


def test_historical_median_reads_the_middle_quantile() -> None:
    q = torch.tensor([[1.0, 2.0, 4.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    assert HistoricalMedian("user").predict({"q_user": q}).tolist() == [3.0, 0.0]
    assert HistoricalMedian("item").predict({"q_item": q[:, :3]}).tolist() == [2.0, 0.0]


def test_an_unknown_side_is_named() -> None:
    with pytest.raises(ValueError, match="side"):
        HistoricalMedian("both")
