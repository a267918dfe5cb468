"""A training that is interrupted and goes on from its checkpoint ends with the numbers of an uninterrupted one, bit for bit."""

import copy

import pytest
import torch
from test_data_parallel import models as small_models
from test_data_parallel import table

from ordkernels.models import TableRegression, fit, training

OPTIONS = {"epochs": 3, "batch_size": 24, "progress": False, "seed": 4}


class Interrupted(KeyboardInterrupt):
    pass


def stop_at(step):
    def on_step(number, _):
        if number == step:
            raise Interrupted

    return on_step


def model_of(name):
    torch.manual_seed(0)
    return small_models()[name]()


@pytest.mark.parametrize("name", ["FlowTime", "DiffoR", "GenerativeRegression", "IFusion"])
@pytest.mark.parametrize("stop", [3, 5])  # after an epoch, and within one
def test_goes_on_bit_for_bit(name, stop, tmp_path):
    rows, whole, file = table(), model_of(name), tmp_path / "training.pt"
    for module in (whole, cut := copy.deepcopy(whole)):
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.1  # its random stream is part of the state too
    history = fit(whole, rows, **OPTIONS)
    with pytest.raises(Interrupted):
        fit(cut, rows, **OPTIONS, checkpoint=file, checkpoint_steps=1, on_step=stop_at(stop))
    steps = []
    again = model_of(name)
    for part in again.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.1
    assert fit(again, rows, **OPTIONS, checkpoint=file, on_step=lambda step, _: steps.append(step)) == history
    assert steps == list(range(stop, 10))  # the step that was interrupted had not been written
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0, msg=lambda text, k=key: f"{k}: {text}")


def test_a_finished_training_is_only_read(tmp_path):
    rows, file = {"dense": torch.randn(50, 3), "y": torch.rand(50)}, tmp_path / "training.pt"
    torch.manual_seed(0)
    first, second = TableRegression(3), TableRegression(3)
    history = fit(first, rows, **OPTIONS, checkpoint=file)
    assert fit(second, rows, **OPTIONS, checkpoint=str(file), on_step=stop_at(1)) == history
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_time_budgets_add_up(tmp_path):
    rows, file = {"dense": torch.randn(50, 3), "y": torch.rand(50)}, tmp_path / "training.pt"
    torch.manual_seed(0)
    whole = TableRegression(3)
    parts = copy.deepcopy(whole)
    history = fit(whole, rows, **OPTIONS)
    with pytest.raises(Interrupted):  # one step; a budget that is over ends the training after a step
        fit(copy.deepcopy(parts), rows, **OPTIONS, checkpoint=file, checkpoint_steps=1, on_step=stop_at(2))
    assert fit(parts, rows, **OPTIONS, checkpoint=file, time_budget=60) == history
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


def test_a_budget_that_is_over_stops_after_a_step_which_is_kept(tmp_path):
    rows, file, steps = {"dense": torch.randn(50, 3), "y": torch.rand(50)}, tmp_path / "training.pt", []
    fit(TableRegression(3), rows, **OPTIONS, checkpoint=file, time_budget=0, on_step=lambda step, _: steps.append(step))
    fit(TableRegression(3), rows, **OPTIONS, checkpoint=file, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(1, 10))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.1}, "checkpoint: expected a training with lr = 0.1, got 0.002"),
        ({"epochs": 4}, "checkpoint: expected a training with steps = 12, got 9"),
        ({"checkpoint_steps": 0}, "checkpoint_steps: expected at least 1, got 0"),
    ],
)
def test_other_settings_are_refused(change, text, tmp_path):
    rows, file = {"dense": torch.randn(50, 3), "y": torch.rand(50)}, tmp_path / "training.pt"
    fit(TableRegression(3), rows, **OPTIONS, checkpoint=file)
    with pytest.raises(ValueError, match=text):
        fit(TableRegression(3), rows, **{**OPTIONS, "checkpoint": file, **change})


def test_other_files_are_refused(tmp_path):
    rows, file = {"dense": torch.randn(50, 3), "y": torch.rand(50)}, tmp_path / "training.pt"
    fit(TableRegression(3), rows, **OPTIONS, checkpoint=file)
    with pytest.raises(ValueError, match="checkpoint: expected the state of this model"):
        fit(TableRegression(3, hidden=8), rows, **OPTIONS, checkpoint=file)
    whole = file.read_bytes()
    cut = [whole[:k] for k in range(0, len(whole), len(whole) // 40)]
    for damaged in (*cut, b"step,loss\n1,2\n", whole[:200] + b"\0" * 64 + whole[264:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint: expected a file that fit wrote, got .*training\.pt"):
            fit(TableRegression(3), rows, **OPTIONS, checkpoint=file)
    torch.save(TableRegression(3).state_dict(), file)
    with pytest.raises(ValueError, match="checkpoint: expected a file that fit wrote"):
        fit(TableRegression(3), rows, **OPTIONS, checkpoint=file)
    assert [f.name for f in tmp_path.iterdir()] == ["training.pt"]


@pytest.mark.parametrize("fused", [None, True])
def test_a_checkpoint_of_torchs_optimizer_goes_on_with_ours_to_rounding(tmp_path, monkeypatch, fused):
    rows, file = {"dense": torch.randn(50, 3), "y": torch.rand(50)}, tmp_path / "training.pt"
    torch.manual_seed(0)
    whole = TableRegression(3)
    cut, again = copy.deepcopy(whole), copy.deepcopy(whole)

    def of_torch(model, averaged, settings):
        return torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"], fused=fused)

    with monkeypatch.context() as earlier:
        earlier.setattr(training, "_optimizer", of_torch)
        history = fit(whole, rows, **OPTIONS)
        with pytest.raises(Interrupted):
            fit(cut, rows, **OPTIONS, checkpoint=file, checkpoint_steps=1, on_step=stop_at(4))
    assert [e["loss"] for e in fit(again, rows, **OPTIONS, checkpoint=file)] == pytest.approx([e["loss"] for e in history], rel=1e-4)
    for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
