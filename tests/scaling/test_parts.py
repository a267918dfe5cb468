"""Scoring jobs: part files of a table's blocks, whatever its format; a run that was cut short is completed, not repeated."""

import json
import pickle

import numpy as np
import pytest
import torch

from ordkernels._tables.blocks import Table, as_array
from ordkernels.models import DiffoR
from ordkernels.scaling.local import run
from ordkernels.scaling.parts import MANIFEST, Job, PartFolder, PartScorer, manifest

pytest.importorskip("safetensors")

N = 700


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    return {"dense": rng.normal(size=(N, 2)), "id": rng.permutation(N) + 5, "name": np.array([f"n{k}" for k in range(N)])}


@pytest.fixture(scope="module")
def job(columns, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    torch.manual_seed(0)
    model = DiffoR(dense_width=2, T=20)
    model.prepare({"y": torch.rand(100) * 9, "dense": torch.randn(100, 2)})
    model.save_pretrained(folder / "model")
    np.savez(folder / "t.npz", **columns)
    return Job(str(folder / "model"), str(folder / "t.npz"), keep=("name",), row_id="id", rows=300, samples=2, ending=".npz")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def test_parts_hold_what_the_model_predicts(job, columns, tmp_path):
    folder = PartFolder.open(tmp_path / "out", job)
    run(folder, PartScorer(job, threads=1))
    assert folder.finish() == N
    folder.join(tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as found:
        assert list(found) == ["id", "name", "prediction", "q0.1", "q0.5", "q0.9", "sample_0", "sample_1"]
        np.testing.assert_array_equal(found["id"], columns["id"])
        np.testing.assert_array_equal(found["name"], columns["name"])
        x, ids = {"dense": torch.from_numpy(columns["dense"]).float()}, torch.from_numpy(columns["id"])
        draws = DiffoR.from_pretrained(job.model).sample(x, 128, 0, ids).double().numpy()
        expected = np.quantile(draws, [0.1, 0.5, 0.9], axis=1, method="hazen")
        np.testing.assert_allclose(np.stack([found[q] for q in ("q0.1", "q0.5", "q0.9")]), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.stack([found["sample_0"], found["sample_1"]], 1), draws[:, :2], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found["prediction"], found["q0.5"])


def test_any_order_again_and_from_another_process_makes_the_same_bytes(job, tmp_path):
    run(PartFolder.open(tmp_path / "whole", job), PartScorer(job, threads=1))
    expected = contents(tmp_path / "whole")
    assert len(expected) == 3
    folder, scorer = pickle.loads(pickle.dumps((PartFolder.open(tmp_path / "parts", job), PartScorer(job, threads=2))))
    assert folder.missing() == [0, 1, 2]
    for k in (2, 0, 2):
        folder.write(k, scorer(*folder.block(k, scorer)))
    touched = {path: path.stat().st_mtime_ns for path in (folder.part(0), folder.part(2))}
    with pytest.raises(ValueError, match="expected all parts to be there, got none of number 1"):
        folder.finish()
    (folder.path / ".part-000001.npz.left").write_bytes(b"half")
    again = PartFolder.open(tmp_path / "parts", job)
    assert again.missing() == [1]
    assert not manifest(folder.path)["complete"]
    run(again, scorer)
    assert again.finish() == N
    assert manifest(folder.path)["complete"]
    assert contents(folder.path) == expected
    assert touched == {path: path.stat().st_mtime_ns for path in touched}


def test_parts_of_another_job_are_not_mixed(job, columns, tmp_path):
    folder, scorer = PartFolder.open(tmp_path / "out", Job(**{**vars(job), "seed": 5})), PartScorer(job, threads=1)
    folder = PartFolder.open(tmp_path / "out", job)  # no part is there yet
    folder.write(0, scorer(*folder.block(0, scorer)))
    for change, text in (({"seed": 1}, "expected seed 0, as its parts were made with, got 1"), ({"keep": ()}, "expected keep")):
        with pytest.raises(ValueError, match=text):
            PartFolder.open(tmp_path / "out", Job(**{**vars(job), **change}))
    np.savez(tmp_path / "t.npz", **columns)
    with pytest.raises(ValueError, match="expected the table that its parts were made of"):
        PartFolder.open(tmp_path / "out", Job(**{**vars(job), "table": str(tmp_path / "t.npz")}))
    assert PartFolder.reopen(tmp_path / "out", job).done(0)
    assert not PartFolder.reopen(tmp_path / "out", Job(**{**vars(job), "seed": 1})).done(0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match="got one with other files"):
        PartFolder.reopen(tmp_path / "mine", job)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"
    folder.write(0, scorer(*folder.block(0, scorer)))
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match="expected the manifest of a folder of predictions"):
        PartFolder.open(tmp_path / "out", job)


def test_errors_name_the_option_and_what_the_table_has(job):
    for change, text in (
        ({"keep": ("nowhere",)}, "--keep: expected a column of .*one of 'dense', 'id', 'name', got 'nowhere'"),
        ({"row_id": "nowhere"}, "--row-id: expected a column"),
        ({"model": job.table}, "expected a folder that save_pretrained wrote, got a file"),
        ({"model": "/nowhere"}, "expected a folder that save_pretrained wrote"),
    ):
        with pytest.raises(ValueError, match=text):
            PartScorer(Job(**{**vars(job), **change}))


def written_in(form, columns, folder, parts=1):
    """The columns as a table of that format, in one file or several."""
    pa, csv, feather, parquet = (pytest.importorskip(f"pyarrow{part}") for part in ("", ".csv", ".feather", ".parquet"))
    path = folder / f"t.{form}"
    if parts > 1:
        path.mkdir()
        (path / "_SUCCESS").touch()
    for k, rows in enumerate(np.array_split(np.arange(N), parts)):
        table = pa.table({name: pa.array(values).take(pa.array(rows)) for name, values in columns.items()})
        file = path / f"p{k}.{form}" if parts > 1 else path
        match form:
            case "parquet":
                parquet.write_table(table, file, row_group_size=97)
            case "arrow":
                feather.write_feather(table, str(file))
            case "csv":
                csv.write_csv(table, file)
            case "npz":
                np.savez(file, **{name: values[rows] for name, values in columns.items()})
    return path


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("form", ["parquet", "arrow", "csv", "npz"])
def test_blocks_of_a_table_are_the_same_in_every_format(form, parts, tmp_path):
    columns = {
        "number": np.where(np.arange(N) % 9, np.arange(N) / 8, np.nan),
        "id": np.arange(N) * 3,
        "text": np.array([f"n,{k}" for k in range(N)]),
        "code": np.array([f"{k % 3}" for k in range(N)]),
        "when": np.datetime64("2024-02-28", "us") + np.arange(N) * 1_000_000,
    }
    table = Table(written_in(form, columns, tmp_path, parts))
    assert table.names == list(columns)
    assert table.count() == N
    begins = []
    for begin, n, block in table.blocks(150, text=["code"], done=lambda k: k in (0, 1, 3)):
        begins.append((begin, n))
        assert (block is None) == (begin in (0, 150, 450))
        if block is not None:
            for name, values in columns.items():
                found = as_array(block[name])
                assert found.dtype.kind == values.dtype.kind
                np.testing.assert_array_equal(found, values[begin : begin + n])
    assert begins == [(0, 150), (150, 150), (300, 150), (450, 150), (600, 100)]
    assert sum(n for _, n, _ in table.blocks(150, ["id"], done=lambda k: k < 5)) == N
