"""Models in folders: the same predictions bit for bit, and refused where a file is missing, cut short, changed, newer or another's."""

import copy
import inspect
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from test_model_dtypes import MODELS, prepare, table

from ordkernels import models
from ordkernels.models import DiffoR, EncoderConfig, FlowTime, GenerativeRegression, HistoricalMedian, TableClassifier, _pretrained
from ordkernels.models._base import GenerativeModel, SavedModel
from ordkernels.schedules import NoiseSchedule
from ordkernels.vocabulary import ValueVocabulary

pytest.importorskip("safetensors")


def trained(name):
    torch.manual_seed(0)
    model, rows = MODELS[name](), table()
    prepare(model, rows)
    model.loss(rows)["loss"].backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    return model.eval(), rows


@pytest.mark.parametrize("name", MODELS)
def test_the_same_predictions(name, tmp_path):
    model, rows = trained(name)
    expected = model.predict(rows)
    model.save_pretrained(tmp_path / "new" / "folder")
    state = torch.get_rng_state()
    loaded = type(model).from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), state)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(loaded.predict(rows), expected)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    loaded.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "new" / "folder" / file).read_bytes()
    assert bool(torch.isfinite(loaded.train().loss(rows)["loss"]))
    for copied in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        copied.save_pretrained(tmp_path / "copy")
        assert torch.equal(type(model).from_pretrained(tmp_path / "copy").predict(rows), expected)


@pytest.mark.parametrize(
    "model",
    [
        DiffoR(0, 0, 3, 8, schedule=NoiseSchedule.cosine(12), T=12, steps=(12, 10, 8, 6, 5, 4, 3, 2, 1), heads=2, eta=0.5, clip=3),
        GenerativeRegression(dense_width=3, vocabulary=ValueVocabulary([1, 10, 100], unit=0.5), curriculum=0.5, omega=float("inf")),
        GenerativeRegression(0, 0, 3, decoding_config=models.DecodingConfig(capacity=False, monotone=False), max_tokens=np.int64(30)),
        TableClassifier(3, torch.tensor([4.0, 1.5, 0.1])),
        DiffoR(dense_width=3).half().float(),  # the schedule's buffer is rounded too
    ],
)
def test_every_kind_of_argument(model, tmp_path):
    rows = {"dense": torch.randn(6, 3)}
    model.save_pretrained(tmp_path)
    loaded = SavedModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(loaded.predict(rows), model.predict(rows))
    assert all(torch.equal(a, b) for a, b in zip(loaded.buffers(), model.buffers(), strict=True))
    if isinstance(model, DiffoR):
        assert loaded.schedule.exact == model.schedule.exact
    for name in ("loss_config", "steps", "vocabulary", "mixup"):
        assert getattr(loaded, name, None) == getattr(model, name, None)


def test_configurations_and_flags_are_told_apart(tmp_path):
    model = FlowTime(5, 9, 2, encoder_config=EncoderConfig(encoder="mlp", id_width=3), prior="none", lam=0.25)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"]["lam"] == 0.25
    assert config["arguments"]["encoder_config"]["encoder"] == "mlp"
    loaded = GenerativeModel.from_pretrained(tmp_path)
    assert loaded.lam == 0.25
    assert loaded.encoder.config == model.encoder.config
    assert loaded.crps_space == model.crps_space
    HistoricalMedian("item").save_pretrained(tmp_path)  # over the other; a model without parameters
    assert HistoricalMedian.from_pretrained(tmp_path).side == "item"


SMALL = {"trunk_width": 16, "trunk_blocks": 3, "history_dropout": 0.5}


@pytest.mark.parametrize("make", [lambda **o: FlowTime(5, 9, 2, **o), lambda **o: models.CREAD(5, 9, 2, **o)])
def test_a_later_default_changes_no_saved_model(make, tmp_path):
    model = make(**SMALL)
    content, tensors = _pretrained.described(model)
    content["defaults"] |= {name: content["arguments"].pop(name) for name in SMALL}  # as if they had been the defaults
    loaded = _pretrained.built(SavedModel, content, tensors, tmp_path)
    assert loaded.encoder.state_dict().keys() == model.encoder.state_dict().keys()
    assert {name: loaded._arguments[1][name] for name in SMALL} == SMALL


def test_folders_that_tell_no_defaults_have_the_first_ones(tmp_path):
    given = {"trunk_blocks": 2, "history_dropout": 0.2}
    content, tensors = _pretrained.described(FlowTime(5, 9, 2, **given))
    del content["defaults"]
    content["arguments"] = {name: value for name, value in content["arguments"].items() if name not in given}
    assert _pretrained.built(SavedModel, content, tensors, tmp_path).encoder.config == EncoderConfig(**given)


def test_a_whole_configuration_stays_as_it_is(tmp_path):
    content, tensors = _pretrained.described(FlowTime(5, 9, 2, encoder_config=EncoderConfig(trunk_blocks=0)))
    content["defaults"]["trunk_blocks"] = 5
    assert _pretrained.built(SavedModel, content, tensors, tmp_path).encoder.config == EncoderConfig(trunk_blocks=0)


@pytest.mark.parametrize("name", MODELS)
def test_every_default_is_saved(name):
    model = MODELS[name]()
    content, _ = _pretrained.described(model)
    parameters = inspect.signature(type(model).__init__).parameters
    known = {n for n, p in parameters.items() if p.default is not p.empty}
    assert known <= content["arguments"].keys() | content["defaults"].keys()
    takes_flags = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert ("trunk_blocks" in content["arguments"].keys() | content["defaults"].keys()) == takes_flags


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype, tmp_path):
    model, rows = DiffoR(dense_width=3).to(dtype), {"dense": torch.randn(5, 3, dtype=dtype)}
    model.save_pretrained(tmp_path)
    loaded = DiffoR.from_pretrained(tmp_path)
    assert next(loaded.parameters()).dtype == dtype
    assert torch.equal(loaded.predict(rows), model.predict(rows))
    model.denoiser.float()
    with pytest.raises(ValueError, match="model: expected parameters of one dtype, got"):
        model.save_pretrained(tmp_path)


def test_a_denoiser_of_ones_own_is_named(tmp_path):
    model = DiffoR(dense_width=2, denoiser=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"denoiser: expected numbers, .* got Linear, which only pickling can save"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path):
    DiffoR(dense_width=2).save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def cut(folder, file):
    path = folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder, file):
    data = bytearray((folder / file).read_bytes())
    data[-5] ^= 1
    (folder / file).write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "config.json").unlink(), r"config.json: expected a file that save_pretrained wrote, got none"),
        (lambda f: (f / "model.safetensors").unlink(), r"model.safetensors: expected a file that save_pretrained wrote, got none"),
        (lambda f: cut(f, "config.json"), r"config.json: expected JSON"),
        (lambda f: cut(f, "model.safetensors"), r"model.safetensors: expected \d+ bytes, as config.json says, got \d+"),
        (lambda f: flip(f, "model.safetensors"), r"model.safetensors: expected the SHA-256 in config.json, got another"),
        (lambda f: edit(f, arguments={"dense_width": 3}), r"config.json: expected the SHA-256 that the file states, got another"),
        (lambda f: edit(f, format_version=2), r"config.json: expected format_version 1 at most, got 2 of a newer ordkernels"),
        (lambda f: edit(f, format="other"), r"config.json: expected a saved model of ordkernels, got 'other'"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), r"expected a saved model of ordkernels, got another"),
        (lambda f: (f / "config.json").write_text("[1]"), r"config.json: expected a saved model of ordkernels, got another file"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), r"config.json: expected JSON"),
    ],
)
def test_damaged_folders(damage, text, folder):
    damage(folder)
    with pytest.raises(ValueError, match=text):
        DiffoR.from_pretrained(folder)


def test_other_classes_and_places(folder):
    with pytest.raises(ValueError, match=r"config.json: expected a FlowTime, got 'DiffoR'"):
        FlowTime.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"config.json: expected a file that save_pretrained wrote, got none"):
        DiffoR.from_pretrained(folder / "nowhere")
    with pytest.raises(ValueError, match=r"directory: expected a folder, .*, got the file .*config.json"):
        DiffoR(dense_width=2).save_pretrained(folder / "config.json")


def test_a_half_written_folder_is_refused(folder, monkeypatch):
    monkeypatch.setattr("ordkernels.models._pretrained.json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        DiffoR(dense_width=3).save_pretrained(folder)  # ends between the weights and the configuration
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"model\.safetensors: expected"):
        DiffoR.from_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_without_safetensors(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for call in (DiffoR(dense_width=2).save_pretrained, DiffoR.from_pretrained):
        with pytest.raises(ImportError, match=r"expected safetensors.*pip install 'ordkernels\[estimators\]'"):
            call(folder)
