"""The checker of `make soak`: planted leaks are found, flat runs are not; and every piece of its work runs."""

import ctypes
import mmap
import random
from pathlib import Path

import pytest
import soak
import torch
from growth import BLOCKS, growth
from soak import Reading


def noisy(n: int, leak: float, seed: int) -> list[float]:
    """Memory that fills caches first, then swings by what the current sizes need, and gains `leak` over the whole run."""
    r = random.Random(seed)
    return [500 + 60 * min(1.0, 8 * i / n) + r.expovariate(1 / 10) + 50 * (r.random() < 0.05) + leak * i / n for i in range(n)]


@pytest.mark.parametrize("seed", range(20))
def test_flat_runs_are_flat_and_leaks_are_found(seed: int) -> None:
    assert not growth(noisy(200, 0.0, seed), 8.0).found
    assert growth(noisy(200, 24.0, seed), 8.0).found
    falling = growth(noisy(200, -24.0, seed), 8.0)
    assert falling.amount < 0
    assert not falling.found


def test_a_single_step_is_no_growth_and_a_staircase_is() -> None:
    step = [500.0] * 150 + [540.0] * 50  # a cache that fills once, late
    assert not growth(step, 8.0).found
    assert growth([500 + 5.0 * (i // 25) for i in range(200)], 8.0).found


def test_one_thread_in_ten_minutes_is_found() -> None:
    assert growth([9 + i // 67 for i in range(200)], 0.5).amount > 0.5
    assert growth([9 + i // 20 for i in range(200)], 0.5).found
    assert not growth([9 + i % 2 for i in range(200)], 0.5).found


def test_too_few_values() -> None:
    with pytest.raises(ValueError, match="values: expected at least 72, got 71"):
        growth([0.0] * (3 * BLOCKS - 1), 1.0)


def test_the_report_names_what_grows(capsys: pytest.CaptureFixture[str]) -> None:
    flat = [Reading(180.0, 900.0, 90_000, 9000, 7, 12, resident=500.0 + i) for i in range(100)]  # gaps may grow
    assert soak.report(flat)
    assert "GROWS" not in capsys.readouterr().out
    leaking = [reading._replace(objects=9000 + 20 * i) for i, reading in enumerate(flat)]
    assert not soak.report(leaking)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "GROWS" in line] == ["objects"]


needs_mallinfo = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")


@needs_mallinfo
def test_readings_see_objects_files_and_memory(tmp_path: Path) -> None:
    before = soak.read()
    held = [[i] for i in range(5000)], torch.ones(8 << 20), [torch.ones(100) for _ in range(5000)], open(tmp_path / "file", "w")  # noqa: SIM115
    pages = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    after = soak.read()
    held[-1].close()
    pages.close()
    assert after.objects - before.objects >= 5000
    assert after.blocks - before.blocks >= 10_000
    assert after.files == before.files + 1
    assert after.used - before.used == pytest.approx(32 + 5000 * 400 / 2**20, abs=4)  # of one large block and of many small ones
    assert after.mapped - before.mapped == pytest.approx(16, abs=6)
    assert after.resident - before.resident > 30


@needs_mallinfo
def test_gaps_between_what_is_in_use_are_no_leak() -> None:
    """Every second of many tensors freed: memory that stays resident and is free."""
    before = soak.read()
    held = [torch.ones(500) for _ in range(20_000)][::2]
    half = soak.read()
    assert half.used - before.used == pytest.approx(len(held) * 2000 / 2**20, abs=6)
    assert half.resident - before.resident > 30


@pytest.mark.slow
def test_every_piece_of_work_runs(tmp_path: Path, native: None) -> None:
    load = soak.Load(0, tmp_path)
    for work in load.work:
        for _ in range(3):
            work()
            load.calls += 1
