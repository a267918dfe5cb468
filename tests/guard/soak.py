"""`make soak`: everything over and over with random sizes and threads, for 30 minutes; exit 1 if memory or a count grows.

Watched: memory in use as malloc and Python count it, memory mapped past malloc, objects, threads, open files; `growth` decides.
Resident memory is printed too, but cannot decide: it holds the gaps between what is in use, which depend on the order of the sizes.
Four threads that call ops have the same in use, to 2 KiB, after 2,000 and after 40,000 rounds, while resident memory rises by 8 MiB.
"""

import argparse
import copy
import ctypes
import gc
import io
import math
import os
import pickle
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from growth import BLOCKS, growth
from host_calls import host_calls
from op_calls import op_calls, step

from ordkernels import data, models, ops, schedules, scores, use_backend
from ordkernels.scores.files import score_file

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = (models.FlowTime, models.DiffoR, models.GenerativeRegression, models.IFusion)
SMALL = {
    models.FlowTime: {"latent": 8, "hidden": 16, "layers": 2},
    models.DiffoR: {"T": 20},
    models.GenerativeRegression: {},
    models.IFusion: {"latent": 8, "hidden": 16, "T": 10, "denoiser_hidden": 16, "long": 10, "attention_heads": 2},
}


class Reading(NamedTuple):
    """What one round leaves behind."""

    used: float  # MiB that malloc has handed out: of torch, NumPy and our C++
    mapped: float  # MiB of memory of the process alone that malloc does not have: of Python's own allocator, stacks, others' mmap
    blocks: int  # of Python's allocator, in use: also what is no object of the garbage collector's
    objects: int
    threads: int
    files: int
    resident: float  # MiB


# How much each may grow over the last two thirds of a run, above all noise. Of 30 minutes: a leak of 80 bytes for each of the
# about 50,000 calls that follow the warm-up is found.
TOLERANCE = Reading(used=4.0, mapped=8.0, blocks=1000, objects=500, threads=0.5, files=0.5, resident=math.inf)


class _MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def _malloc() -> tuple[float, float]:
    """MiB that malloc has handed out, and that it has taken from the system, in all of its arenas."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        raise RuntimeError("expected glibc 2.33 or later, got a C library without mallinfo2")
    libc.malloc_trim(0)  # so that resident memory is without what is kept free at the end of an arena
    libc.mallinfo2.restype = _MallocInfo
    info = libc.mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20, (info.arena + info.hblkhd) / 2**20


def read() -> Reading:
    gc.collect()
    used, taken = _malloc()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    private, shared, resident, stacks = (int(status[name].split()[0]) / 1024 for name in ("VmData", "RssShmem", "VmRSS", "VmStk"))
    return Reading(
        used=used,
        mapped=private + shared + stacks - taken,
        blocks=sys.getallocatedblocks(),
        objects=len(gc.get_objects()),
        threads=int(status["Threads"]),
        files=len(os.listdir("/proc/self/fd")),
        resident=resident,
    )


class Load:
    """What a round chooses from. Methods whose names begin with `do_` are one piece of work each."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random, self.folder = random.Random(seed), folder
        train, _ = data.kuairand_sessions()
        self.sizes = *data.n_ids(train, train), train["dense"].shape[1]
        self.train = {name: v[:4000].clone() for name, v in train.items()}
        self.models = {kind: kind(*self.sizes, **SMALL[kind]) for kind in KINDS}
        for model in self.models.values():
            models.fit(model, {name: v[:500] for name, v in self.train.items()}, epochs=1, batch_size=250, progress=False)
        self.work = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        self.calls = 0

    def rows(self, most: int) -> int:
        """0, 1, or about any magnitude up to `most`."""
        return self.random.choice((0, 1, int(most ** self.random.random())))

    def round(self) -> None:
        torch.set_num_threads(self.random.choice((1, 2, 4)))
        self.random.choice(self.work)()
        self.calls += 1

    def do_ops(self) -> None:
        call = self.random.choice(op_calls(self.rows(4000), self.calls, self.random.choice(DTYPES)))
        with use_backend("reference") if self.random.random() < 0.1 else torch.inference_mode():
            call()

    def do_gradients(self) -> None:
        step(self.random.choice(op_calls(self.rows(2000), self.calls, self.random.choice(DTYPES))))

    def do_data_side(self) -> None:
        calls = list(host_calls(max(self.rows(20_000), 2), self.calls, self.random.choice((np.float32, np.float64))))
        for _, call in self.random.sample(calls, 4):
            call(self.random.choice((1, 2, 5)))

    def do_threads(self) -> None:
        """Four Python threads, each with its own calls."""
        calls = self.random.sample(op_calls(max(self.rows(500), 1), self.calls), 4)
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _batch(self, most: int = 300) -> tuple[Any, dict[str, torch.Tensor]]:
        at = torch.tensor(self.random.sample(range(4000), max(self.rows(most), 2)))
        return self.random.choice(list(self.models.values())), {name: v[at] for name, v in self.train.items()}

    def do_training(self) -> None:
        model, batch = self._batch()
        if self.random.random() < 0.3:
            fresh = type(model)(*self.sizes, **SMALL[type(model)])  # `fit` prepares a model for its rows: not one that others use
            models.fit(fresh, batch, epochs=1, batch_size=64, progress=False)
        else:
            model.train().loss(batch)["loss"].backward()
            model.zero_grad()

    def do_sampling(self) -> None:
        model, batch = self._batch(100)
        x = {name: v for name, v in batch.items() if name != "y"}
        model.eval()
        if isinstance(model, models.IFusion):
            model.predict(x, row_ids=x["row"])
        else:
            model.sample(x, self.random.choice((1, 8)), seed=self.calls, row_ids=x["row"])
            model.interval(x, 0.8, n=8, row_ids=x["row"])

    def do_copies(self) -> None:
        """A model's life: built anew, copied, pickled, its state saved and loaded."""
        kind = self.random.choice(KINDS)
        model = kind(*self.sizes, **SMALL[kind])
        model.load_state_dict(copy.deepcopy(self.models[kind]).state_dict())
        state = io.BytesIO()
        torch.save(model.state_dict(), state)
        pickle.loads(pickle.dumps(model))

    def do_files(self) -> None:
        n = max(self.rows(3000), 2)
        rng = np.random.default_rng(self.calls)
        columns = {"y": rng.gamma(2, 20, n), "p": rng.gamma(2, 20, n), "g": rng.integers(0, 9, n)}
        npz, csv = self.folder / "scores.npz", self.folder / "scores.csv"
        np.savez(npz, **columns)
        csv.write_text("y,p,g\n" + "".join(f"{y!r},{p!r},{g}\n" for y, p, g in zip(*(c.tolist() for c in columns.values()), strict=True)))
        for path in (npz, csv):
            score_file(path, "y", "p", group="g", binned=self.random.choice((None, 64)), thetas=(5,))

    def do_loaders(self) -> None:
        data.cdnow(split=self.random.randrange(3))
        data.ordinal(self.random.choice(data.ordinal_names()))

    def do_schedules(self) -> None:
        schedule = schedules.NoiseSchedule.linear(self.random.randrange(2, 2000))
        schedules.mixture_timesteps(self.rows(500), schedule.T, schedules.aligned_timesteps(2, schedule.T), 0.5, seed=self.calls)

    def do_errors(self) -> None:
        """What is refused leaves nothing behind either: neither a file nor the frames of a traceback."""
        broken = self.folder / "broken.csv"
        broken.write_text("y,p\n1,2\n3,nothing\n")
        wrong: list[Callable[[], Any]] = [
            lambda: ops.crps(torch.zeros(3, 2), torch.zeros(4)),
            lambda: ops.planar_flow(torch.zeros(2, 3), *3 * [torch.zeros(1)]),
            lambda: scores.xauc([1.0, float("nan")], [1.0, 2.0]),
            lambda: score_file(broken, "y", "p"),
            lambda: score_file(self.folder / "absent.npz", "y", "p"),
            lambda: self.models[models.DiffoR].predict({"dense": torch.zeros(2, 1)}),
        ]
        for call in wrong:
            try:
                call()
            except (TypeError, ValueError, KeyError, OSError):
                continue
            raise AssertionError("expected an error")


def report(readings: list[Reading]) -> bool:
    """Prints a line for each thing that is watched. Is all of it flat?"""
    print(f"{'':10}{'after warm-up':>15}{'at the end':>12}{'growth':>10}{'tolerance':>11}{'p':>10}")
    flat = True
    for name, values, tolerance in zip(Reading._fields, zip(*readings, strict=True), TOLERANCE, strict=True):
        g = growth(values, tolerance)
        flat &= not g.found
        verdict = "GROWS" if g.found else "flat"
        print(f"{name:10}{g.first:15,.1f}{g.last:12,.1f}{g.amount:10,.2f}{tolerance:11,.1f}{g.p:10.2g}  {verdict}")
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    readings: list[Reading] = []
    with tempfile.TemporaryDirectory() as folder:
        load = Load(options.seed, Path(folder))
        end = time.monotonic() + 60 * options.minutes
        # A reading each 200th of the time, and at least 5 rounds between two of them: both seldom enough to cost little.
        while time.monotonic() < end or len(readings) < 3 * BLOCKS:
            until = time.monotonic() + 60 * options.minutes / 200
            for rounds in range(1_000_000):
                if rounds >= 5 and time.monotonic() >= until:
                    break
                load.round()
            readings.append(read())
    print(f"{load.calls:,} pieces of work in {options.minutes:g} minutes, {len(readings)} readings, seed {options.seed}")
    return 0 if report(readings) else 1


if __name__ == "__main__":
    sys.exit(main())
