"""Estimators in folders: the same predictions bit for bit, histories included, and refused where a file is not as it was written."""

import json
import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from test_fit_predict import ROLES, columns, target

from ordkernels import estimators
from ordkernels.estimators import D2QRegressor, DiffoRRegressor, FlowTimeRegressor, GRRegressor, TableRegressor
from ordkernels.models import FlowTime, PriorConfig

pytest.importorskip("safetensors")

ESTIMATORS = {
    "flowtime": FlowTimeRegressor(**ROLES, epochs=1, options={"prior_config": PriorConfig("none"), "layers": 2}),
    "diffor": DiffoRRegressor(user="user", capacity="length", epochs=1),
    "gr": GRRegressor(item="video", epochs=1, options={"hidden": 16}),
    "d2q": D2QRegressor(capacity="length", epochs=1, random_state=np.int64(5)),
    **{f"{n}Regressor": getattr(estimators, f"{n}Regressor")(**ROLES, epochs=1) for n in ("Value", "CREAD", "TPM", "WLR", "EGMN")},
}


def later():
    """Rows after training, with ids and categories that it did not have, and missing values."""
    table = columns()
    table["video"] = [*table["video"][:-2], "never \N{SNOWMAN}", "v3"]
    table["kind"] = [*table["kind"][:-1], None]
    return table


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_same_predictions(name, tmp_path):
    model = ESTIMATORS[name].fit(columns(), np.minimum(target(), columns()["length"]))
    model.save_pretrained(tmp_path)
    loaded = TableRegressor.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict(later()), model.predict(later()))
    assert loaded.get_params() == model.get_params()
    assert loaded.history_ == model.history_
    assert loaded.features_.columns == model.features_.columns
    assert loaded.features_.ids == model.features_.ids
    assert loaded.n_features_in_ == model.n_features_in_
    assert loaded.feature_names_in_.tolist() == model.feature_names_in_.tolist()
    assert {n: a.dtype for n, a in loaded.features_.events.items()} == {n: a.dtype for n, a in model.features_.events.items()}
    loaded.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors", "table.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()
    assert not any(b"pickle" in file.read_bytes() for file in tmp_path.glob("*.*"))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded)).predict(later()), model.predict(later()))
    loaded.fit(columns(), np.minimum(target(), columns()["length"]))
    np.testing.assert_array_equal(loaded.predict(later()), model.predict(later()))


@pytest.fixture(scope="module")
def fitted():
    return FlowTimeRegressor(**ROLES, epochs=1).fit(columns(), target())


def test_folders_of_another_kind(fitted, tmp_path):
    with pytest.raises(NotFittedError):
        FlowTimeRegressor().save_pretrained(tmp_path)
    fitted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: expected a DiffoRRegressor, got 'FlowTimeRegressor'"):
        DiffoRRegressor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: expected a saved model of ordkernels, got 'ordkernels\.estimator'"):
        FlowTime.from_pretrained(tmp_path)
    fitted.model_.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"config\.json: expected a saved estimator of ordkernels, got 'ordkernels\.model'"):
        TableRegressor.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "table.safetensors"])
def test_damaged_files(fitted, file, tmp_path):
    fitted.save_pretrained(tmp_path)
    data = (tmp_path / file).read_bytes()
    for bad in (data[:-20], data[: len(data) // 2], b"", data.replace(b"user", b"item", 1), data[:-30] + b"#" + data[-29:]):
        assert bad != data
        (tmp_path / file).write_bytes(bad)
        with pytest.raises(ValueError, match=file.replace(".", r"\.")):
            TableRegressor.from_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: expected a file that save_pretrained wrote, got none"):
        TableRegressor.from_pretrained(tmp_path)


def test_a_newer_version(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format_version": 9, "versions": {"ordkernels": "9.1"}}))
    with pytest.raises(ValueError, match=r"config\.json: expected format_version 1 at most, got 9 of a newer ordkernels \(9\.1\)"):
        TableRegressor.from_pretrained(tmp_path)
