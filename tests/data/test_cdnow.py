"""CDNOW: published facts, nothing of the target in the inputs, errors that help."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ordkernels.data import cdnow, cdnow_features


@pytest.mark.parametrize(("target", "zeros", "largest"), [("first_year", 0.541, 10430), ("holdout", 0.701, 5763)])
def test_cdnow_published_facts(target, zeros, largest):
    train, test = cdnow(target=target)
    y = torch.cat((train["y"], test["y"]))
    assert len(y) == 23570
    assert abs(float((y == 0).float().mean()) - zeros) < 1e-3
    assert abs(float(y.max()) - largest) < 1
    if target == "first_year":
        assert abs(float(y.double().mean()) - 57.57) < 0.01
    assert train["dense"].shape[1] == len(cdnow_features(target))
    assert torch.isfinite(train["dense"]).all()


def write(folder: Path, rows: list[tuple[int, int, int, float]]) -> Path:
    with gzip.open(folder / "CDNOW_master.txt.gz", "wt") as f:
        f.write(" customer_id  date number_of_cds  dollar_value\n")
        f.writelines(f"{who:05d} {date} {n} {dollars}\n" for who, date, n, dollars in rows)
    return folder


def test_cdnow_never_sees_its_target(tmp_path):
    """Changing what a customer buys after the first day (after day 272) changes y, and nothing else."""
    rng = np.random.default_rng(0)
    rows = [(i, 19970101 + int(rng.integers(0, 28)), 1, float(rng.integers(5, 50))) for i in range(1, 41)]
    later = [(i, 19971105, 2, 30.0) for i in range(1, 41, 2)]
    for target in ("first_year", "holdout"):
        (train, test), (train2, test2) = (cdnow(write(tmp_path, rows + extra), target=target) for extra in (later, later + later))
        for a, b in ((train, train2), (test, test2)):
            assert torch.equal(a["dense"], b["dense"])
            assert torch.equal(2 * a["y"], b["y"])
        assert train["y"].max() == 30


def test_cdnow_year_ends_after_365_days(tmp_path):
    rows = [(1, 19970101, 1, 10.0), (1, 19970102, 1, 3.0), (1, 19980101, 1, 5.0), (1, 19980102, 1, 7.0), (2, 19970103, 1, 9.0)]
    train, test = cdnow(write(tmp_path, rows), test_share=0.5)
    y = dict(zip(torch.cat((train["row"], test["row"])).tolist(), torch.cat((train["y"], test["y"])).tolist(), strict=True))
    assert y == {0: 8.0, 1: 0.0}  # days 1 and 365 count, day 366 does not


def test_cdnow_errors(tmp_path):
    with pytest.raises(ValueError, match="target: expected 'first_year' or 'holdout', got 'year'"):
        cdnow(target="year")
    with pytest.raises(FileNotFoundError, match=r"no CDNOW_master\.txt\.gz and no CDNOW_master\.txt in"):
        cdnow(tmp_path)
    (tmp_path / "CDNOW_master.txt").write_text("a b\n1 2\n")
    with pytest.raises(ValueError, match="expected the columns customer_id, date, number_of_cds, dollar_value, once each, got 'a', 'b'"):
        cdnow(tmp_path)


def test_cdnow_customers_who_come_in_the_holdout_are_left_out(tmp_path):
    rows = [row for i in range(1, 21) for row in ((i, 19970101, 1, 10.0 + i), (i, 19980101, 1, 5.0))]
    expected = cdnow(write(tmp_path, rows), target="holdout")
    splits = cdnow(write(tmp_path, [*rows, (21, 19980301, 2, 20.0)]), target="holdout")
    assert sum(len(split["y"]) for split in splits) == sum(len(split["y"]) for split in expected) == 20
    assert all(bool(split["dense"].isfinite().all()) for split in splits)


ROWS = [(i, f"19970{1 + i % 3}{1 + i:02d}", 1 + i % 2, 10.5 + i) for i in range(1, 21)]


def test_cdnow_with_columns_in_another_order_and_without_a_header(tmp_path):
    expected = cdnow(write(tmp_path, ROWS))
    (tmp_path / "CDNOW_master.txt.gz").unlink()
    for text in (
        "dollar_value customer_id date number_of_cds\n" + "".join(f"{d} {who} {date} {n}\n" for who, date, n, d in ROWS),
        "".join(f" {who:05d} {date} {n:2d} {d:7.2f}\r\n" for who, date, n, d in ROWS) + "\n",
    ):
        (tmp_path / "CDNOW_master.txt").write_text(text)
        for a, b in zip(expected, cdnow(tmp_path), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 19971301 1 5", "date: expected YYYYMMDD, got 19971301 in row 20"),
        ("1 1997-01-01 1 5", "date: expected numbers, got '1997-01-01' in row 20"),
        ("1 19970101 1 nan", "dollar_value: expected numbers, got a missing one in row 20"),
        ("1 19970101 1 1e999", "dollar_value: expected numbers, got inf in row 20"),
        ("1 19970101 1", "expected the columns customer_id date number_of_cds dollar_value in every row, got 3 cells in row 20"),
    ],
)
def test_cdnow_rows_that_cannot_be_read_are_named(tmp_path, row, message):
    (tmp_path / "CDNOW_master.txt").write_text("".join(" ".join(map(str, r)) + "\n" for r in ROWS) + row + "\n")
    with pytest.raises(ValueError, match=message):
        cdnow(tmp_path)
