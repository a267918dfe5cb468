"""Scoring jobs: part files of a table's blocks, whatever its format; a run that was cut short is completed, not repeated."""

import json
import pickle
import sys

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
        expected = np.quantile(draws, [0.1, 0.5, 0.9], axis=1, method="weibull")
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
@pytest.mark.parametrize("form", ["parquet", "arrow", "csv", "csv without pyarrow", "npz"])
def test_blocks_of_a_table_are_the_same_in_every_format(form, parts, tmp_path, monkeypatch):
    columns = {
        "number": np.where(np.arange(N) % 9, np.arange(N) / 8, np.nan),
        "id": np.arange(N) * 3,
        "text": np.array([f"n,{k}" for k in range(N)]),
        "code": np.array([f"{k % 3}" for k in range(N)]),
        "when": np.datetime64("2024-02-28", "us") + np.arange(N) * 1_000_000,
    }
    path = written_in(form.split()[0], columns, tmp_path, parts)
    if form.endswith("without pyarrow"):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = Table(path)
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


CELLS = {
    "whole": ["7", "007", " -3\t", "+2", "NA"],
    "number": ["1.5", ".5", "1e3", "-2", ""],
    "flag": ["true", "False", "TRUE", "n/a", "false"],
    "date": ["2024-02-29", "2024-03-01 12:30:00", "", "2024-03-01T00:00:01", "1969-12-31"],
    "zone": ["2024-03-01T12:00:00Z", "2024-03-01T12:00:00+02:00", "", "2024-03-01T00:00:00Z", "2024-03-01T00:00:00Z"],
    "hexadecimal": ["0x10", "1", "2", "3", "4"],
    "grouped": ["1_000", "1", "2", "3", "4"],
    "mixed": ["1", "2", "three", "4.5", "null"],
    "missing": ["", "NA", "null", "none", "nan"],
    "large": ["9007199254740993", "-9223372036854775808", "1", "2", "3"],
}


@pytest.mark.parametrize("reader", ["pyarrow", "stdlib"])
def test_types_of_cells_are_the_same_with_and_without_pyarrow(reader, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join(CELLS), *map(",".join, zip(*CELLS.values(), strict=True))]) + "\n")
    if reader == "stdlib":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = {name: as_array(column) for name, column in Table(path).read().items()}
    nan, nat = np.nan, np.datetime64("NaT")
    expected = {
        "whole": [7, 7, -3, 2, nan],
        "number": [1.5, 0.5, 1000, -2, nan],
        "flag": [1, 0, 1, nan, 0],
        "date": np.array(["2024-02-29", "2024-03-01T12:30", nat, "2024-03-01T00:00:01", "1969-12-31"], "datetime64[us]"),
        "zone": np.array(["2024-03-01T12", "2024-03-01T10", nat, "2024-03-01", "2024-03-01"], "datetime64[us]"),
        "hexadecimal": CELLS["hexadecimal"],
        "grouped": CELLS["grouped"],
        "mixed": ["1", "2", "three", "4.5", ""],
        "missing": [nan] * 5,
        "large": [9007199254740993, -(2**63), 1, 2, 3],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], np.array(values), err_msg=name)
    texts = {name: as_array(column).tolist() for name, column in next(iter(Table(path).blocks(5, text=["whole", "flag"])))[2].items()}
    assert texts["whole"] == ["7", "007", " -3\t", "+2", ""]
    assert texts["flag"] == ["true", "False", "TRUE", "", "false"]


@pytest.mark.parametrize("end", [";", "\t", "|"])
def test_delimiters_are_seen_in_the_header(end, tmp_path):
    (tmp_path / "t.csv").write_text(f"a{end}b, c{end}d\n1{end}2{end}3\n")
    assert Table(tmp_path / "t.csv").names == ["a", "b, c", "d"]
    assert [as_array(column).tolist() for column in Table(tmp_path / "t.csv").read().values()] == [[1], [2], [3]]


def test_names_of_folders_are_columns(tmp_path):
    for day in ("2024-01-01", "2024-01-02"):
        (tmp_path / f"day={day}" / "_temporary").mkdir(parents=True)
        (tmp_path / f"day={day}" / "_temporary" / "half.csv").write_text("broken")
        (tmp_path / f"day={day}" / "part.csv").write_text("x\n1\n2\n")
    table = Table(tmp_path)
    assert table.names == ["x", "day"]
    block = table.read()
    assert as_array(block["x"]).tolist() == [1, 2, 1, 2]
    assert as_array(block["day"]).astype("datetime64[D]").astype(str).tolist() == ["2024-01-01"] * 2 + ["2024-01-02"] * 2
    (tmp_path / "other.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="expected a folder of files of one kind, got csv and npz"):
        Table(tmp_path)


def test_columns_of_several_axes_and_orders(tmp_path):
    x = np.arange(2100.0).reshape(3, 700).T
    np.savez_compressed(tmp_path / "t.npz", columns_first=x, rows_first=np.ascontiguousarray(x))
    for begin, n, block in Table(tmp_path / "t.npz").blocks(300, done=lambda k: k == 0):
        for found in (block or {}).values():
            np.testing.assert_array_equal(found, x[begin : begin + n])
    np.savez(tmp_path / "o.npz", a=np.array([{}]))
    with pytest.raises(TypeError, match="a: expected numbers, text or times, got objects"):
        Table(tmp_path / "o.npz").read()
