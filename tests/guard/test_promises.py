"""RELIABILITY.md's promises that hold for every op alike, attacked for all of them: rows, threads, processes, memory."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from host_calls import host_calls
from host_threads import parts
from op_calls import OpCall, op_calls, step
from torch import Tensor

from ordkernels import ops, rng, scores, use_backend

native = pytest.mark.native
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = [call.name for call in op_calls(1, 0)]
DIFFERENTIABLE = [call.name for call in op_calls(1, 0) if step(call)]
NO_NAN = ("crps", "pinball")  # scores: of data without gradients they refuse NaN
MANY = 20_011  # rows, enough for several threads
by_name = pytest.mark.parametrize("name", NAMES)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def called(name: str, B: int, dtype: torch.dtype = torch.float32) -> OpCall:
    return next(call for call in op_calls(B, 3, dtype) if call.name == name)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """In every bit; NaN equals NaN."""
    pairs = list(zip(a, b, strict=True))
    return all(x.dtype == y.dtype and torch.equal(x.nan_to_num(1e9), y.nan_to_num(1e9)) for x, y in pairs)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_every_op_is_attacked() -> None:
    callables = {name for name in ops.__all__ if callable(getattr(ops, name)) and not isinstance(getattr(ops, name), type)}
    assert callables - set(scores.__all__) <= set(NAMES)


@native
@by_name
@by_dtype
def test_a_row_has_the_same_bits_in_any_batch(name: str, dtype: torch.dtype, native: None) -> None:
    call = called(name, 261, dtype)
    whole = call()
    for rows in (slice(0, 1), slice(7, 8), slice(128, 261), torch.randperm(261)[:100], slice(None, None, 3)):
        assert same([out[rows] for out in whole], call(rows)), rows


@native
@by_name
def test_the_same_bits_from_run_to_run_and_with_any_number_of_threads(name: str, native: None, threads: Callable[[int], None]) -> None:
    call = called(name, MANY)
    threads(1)
    expected = call()
    for n in (1, 2, 3, 8):
        threads(n)
        assert same(call(), expected), n


@native
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_have_the_same_bits_with_any_number_of_threads(name: str, native: None, threads: Callable[[int], None]) -> None:
    call = called(name, MANY)
    threads(1)
    expected = step(call)
    for n in (1, 2, 3, 8):
        threads(n)
        assert same(step(call), expected), n


@by_name
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_nan_spoils_no_other_row(name: str, backend: str, native: None) -> None:
    call = called(name, 37)
    with use_backend(backend):
        clean = call()
        for argument, t in call.rows.items():
            if t.is_floating_point():
                spoilt = t.clone()
                spoilt[17] = torch.nan
                spoilt.requires_grad_(name in NO_NAN)
                out = OpCall(call.op, call.rows | {argument: spoilt}, call.shared)()
                others = torch.arange(37) != 17
                assert same([x[others] for x in out], [x[others] for x in clean]), argument
                assert any(bool(x[17].isnan().any()) for x in out if x.is_floating_point()), argument


@native
@by_name
def test_python_threads_do_not_disturb_each_other(name: str, native: None) -> None:
    calls = [called(name, n) for n in (3, 129, 1000)]
    expected = [call() for call in calls]
    wrong: list[int] = []

    def run(first: int) -> None:
        for i in (first, *range(len(calls))) * 3:
            if not same(calls[i](), expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("n", [50, 3000, 40_000])
def test_data_side_has_the_same_bits_with_any_number_of_threads(n: int) -> None:
    for name, call in host_calls(n, n):
        expected = parts(call(1))
        assert all(parts(call(t)) == expected for t in (1, 2, 3, 8)), name


CHILD = """
import multiprocessing, sys
import torch
from host_calls import host_calls
from host_threads import parts
from op_calls import op_calls


def work(threads):
    torch.set_num_threads(threads)
    found = [t.tolist() for call in op_calls(300, 1) for t in call()]
    return repr(found), [parts(call(4)) for _, call in host_calls(3000, 1)]


def main(method):
    torch.set_num_threads(2)
    here = work(2)  # the parent has used everything, with threads, before it forks
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = pool.map_async(work, [1, 1]).get(timeout=240)
    assert there == [here, here]
    print("same")


if __name__ == "__main__":
    main(sys.argv[1])
"""


@native
@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_after_use(method: str, tmp_path: Path, native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    script = tmp_path / "child.py"  # a file: processes that are spawned import it
    script.write_text(CHILD)
    done = subprocess.run([sys.executable, str(script), method], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "same\n", done.stderr[-3000:]


class Draws(torch.utils.data.Dataset[Tensor]):
    """Noise by row id, and a score: what a worker process computes."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Tensor:
        row = torch.tensor([i])
        return torch.cat((rng.normal(1, row, 0, 4)[0], ops.crps(rng.normal(2, row, 0, 8), torch.zeros(1))))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_compute_what_the_parent_does(method: str) -> None:
    expected = torch.stack([Draws()[i] for i in range(40)])
    loader = torch.utils.data.DataLoader(Draws(), batch_size=8, num_workers=2, multiprocessing_context=method, timeout=240)
    assert torch.equal(torch.cat(list(loader)), expected)
