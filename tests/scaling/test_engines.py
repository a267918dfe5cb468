"""Ray and Spark make the parts that one process makes, also where a worker is killed and where a run goes on."""

import contextlib
import os
import shutil
import threading

import numpy as np
import pytest
import torch

from ordkernels.__main__ import main
from ordkernels.models import DiffoR
from ordkernels.scaling import local, ray_engine, spark_engine
from ordkernels.scaling._workers import spans
from ordkernels.scaling.parts import MANIFEST, Job, PartFolder, PartScorer

pytest.importorskip("safetensors")
psutil = pytest.importorskip("psutil")

N, ROWS = 6000, 100
ENGINES = {"ray": ray_engine, "spark": spark_engine}


def require(engine):
    """Skips where the engine is not installed; the reason is in the report."""
    pytest.importorskip({"ray": "ray.data", "spark": "pyspark.ml.functions"}[engine], exc_type=ImportError)
    if engine == "spark" and shutil.which("java") is None:
        pytest.skip("no Java runtime")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("job"), np.random.default_rng(0)
    torch.manual_seed(0)
    model = DiffoR(dense_width=2, T=20)
    model.prepare({"y": torch.rand(100) * 9, "dense": torch.randn(100, 2)})
    model.save_pretrained(folder / "model")
    np.savez(folder / "t.npz", dense=rng.normal(size=(N, 2)), id=rng.permutation(N))
    return Job(str(folder / "model"), str(folder / "t.npz"), row_id="id", rows=ROWS, ending=".npz", draws=16)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != MANIFEST}


@pytest.fixture(scope="module")
def expected(job, tmp_path_factory):
    folder = PartFolder.open(tmp_path_factory.mktemp("local") / "out", job)
    local.run(folder, PartScorer(job, threads=1))
    return contents(folder.path)


def kill_a_worker(folder, words, killed, ended):
    """With SIGKILL, once the run has made a part, that child process of this one whose command line has one of the words."""
    begun = len(list(folder.path.glob("part-*")))
    while not killed and not ended.wait(0.005):
        if len(list(folder.path.glob("part-*"))) == begun:
            continue
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(word in line for word in words) and not process.children():
                    process.kill()
                    killed.append((line, len(list(folder.path.glob("part-*")))))
                    break


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_equal_bytes_with_a_worker_killed_and_after_a_cut(engine, job, expected, tmp_path):
    require(engine)
    folder = PartFolder.open(tmp_path / "out", job)
    for name in list(expected)[:3]:
        (folder.path / name).write_bytes(expected[name])
    before = {name: (folder.path / name).stat().st_mtime_ns for name in list(expected)[:3]}
    for name in before:
        os.utime(folder.path / name, ns=(1, 1))
    killed, ended = [], threading.Event()
    killer = threading.Thread(target=kill_a_worker, args=(folder, ("ray::MapWorker", "pyspark.daemon"), killed, ended))
    killer.start()
    try:
        ENGINES[engine].run(folder, PartScorer(job, threads=1), 2)
    finally:
        ended.set()
        killer.join()
    assert killed, "no worker was found to kill"
    assert killed[0][1] < N // ROWS, "it was killed after its work"
    assert folder.finish() == N
    assert contents(folder.path) == expected
    assert all((folder.path / name).stat().st_mtime_ns == 1 for name in before)  # finished parts are not touched
    ENGINES[engine].run(folder, PartScorer(job, threads=1), 1)  # nothing is left to do


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_wrong_with_the_table_is_said_once(engine, job, tmp_path):
    require(engine)
    with np.load(job.table) as columns:
        bad = {name: columns[name] for name in columns}
    bad["id"] = bad["id"].astype(float)
    bad["id"][777] = 0.5
    np.savez(tmp_path / "bad.npz", **bad)
    job = Job(job.model, str(tmp_path / "bad.npz"), row_id="id", rows=ROWS, ending=".npz")
    folder = PartFolder.open(tmp_path / "out", job)
    with pytest.raises(TypeError, match=r"bad\.npz: row_ids: expected integers"):
        ENGINES[engine].run(folder, PartScorer(job, threads=1), 2)


@pytest.mark.slow
def test_fit_by_two_workers_of_ray(tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray.train.torch", exc_type=ImportError)
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", a=rng.normal(size=200), y=rng.gamma(2, 3, 200))
    fit = ["fit", "t.npz", "--out", "model", "--epochs", "1", "--engine", "ray", "--workers", "2", "--target"]
    assert main([*fit, "nope"]) == 2
    assert "fit: --target: expected a column of t.npz, one of 'a', 'y', got 'nope'" in capsys.readouterr().err
    assert main([*fit, "y"]) == 0
    assert "160 rows to train on, 40 random ones to compare" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "t.npz"]
    assert main(["score", "model", "t.npz", "out.npz"]) == 0


def test_without_the_packages_or_java(job, tmp_path, monkeypatch):
    folder, scorer = PartFolder.open(tmp_path / "out", job), PartScorer(job, threads=1)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"--engine ray: expected Ray, .*ordkernels\[ray\]"):
        ray_engine.run(folder, scorer)
    with monkeypatch.context() as m:
        m.setitem(__import__("sys").modules, "pyspark", None)
        with pytest.raises(ImportError, match=r"--engine spark: expected PySpark, .*ordkernels\[spark\]"):
            spark_engine.run(folder, scorer)
    pytest.importorskip("pyspark.ml.functions", exc_type=ImportError)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="expected a Java runtime"):
        spark_engine.run(folder, scorer)


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("numbers", [[], [4], list(range(100)), [0, 5, 6, 90]])
def test_tasks_cover_what_is_missing_once(workers, numbers):
    tasks = spans(numbers, workers)
    assert len(tasks) <= 8 * workers
    assert [k for begin, end in tasks for k in range(begin, end) if k in numbers] == numbers
