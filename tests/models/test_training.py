"""`fit`: averaged weights and learning rates by their formulas, steps, the time budget, the bar, errors."""

import builtins
import math

import pytest
import torch
from torch import nn

from ordkernels.models import fit


class Line(nn.Module):
    """A line through the rows, which notes what it is trained with."""

    batch_keys = ("x", "y")

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.rows: list[int] = []

    def loss(self, batch):
        assert set(batch) == {"x", "y"}
        self.rows.append(len(batch["y"]))
        self.seen += len(batch["y"])
        return {"loss": (self.slope * batch["x"] - batch["y"]).square().mean()}


def rows(n: int = 23) -> dict[str, torch.Tensor]:
    x = torch.linspace(-1, 1, n)
    return {"x": x, "y": 3 * x + 1, "unused": torch.zeros(n, 9)}


@pytest.mark.parametrize("average", [0.0, 0.5, 0.99])
def test_averaged_weights_and_rates_by_their_formulas(average):
    """Adam on one number, restated in double precision from the gradients that the loss has."""
    model, slopes = Line(), []
    history = fit(
        model, rows(), epochs=3, batch_size=10, lr=0.2, weight_decay=0.1, average=average, progress=False,
        on_step=lambda step, parts: slopes.append(float(model.slope.detach())),
    )  # fmt: skip
    assert model.rows == [10, 10, 3] * 3
    assert int(model.seen) == 69
    assert len(history) == 3
    mean = 0.0
    for step, slope in enumerate(slopes, 1):
        rate = min(average, step / (step + 10)) if average else 0.0
        mean = rate * mean + (1 - rate) * slope
    assert float(model.slope.detach()) == pytest.approx(mean, rel=1e-5)

    data, p, m, v = rows(), 0.0, 0.0, 0.0
    torch.manual_seed(0)  # fit's seed
    batches = [part for _ in range(3) for part in torch.randperm(23).split(10)]
    for step, part in enumerate(batches, 1):
        x, y = data["x"][part].double(), data["y"][part].double()
        g = float((2 * x * (p * x - y)).mean())
        g *= min(1.0, 5.0 / (abs(g) + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        lr = 0.2 * (1 + math.cos(math.pi * (step - 1) / 9)) / 2
        p = p * (1 - lr * 0.1) - lr * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
        assert slopes[step - 1] == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize(("steps", "passes"), [(1, [8]), (3, [8, 8, 7]), (7, [8, 8, 7, 8, 8, 7, 8])])
def test_steps_in_place_of_epochs(steps, passes):
    """The rate falls to zero over the steps, wherever in a pass the last one is; every pass has a line in the history."""
    model = Line()
    history = fit(model, rows(), steps=steps, batch_size=8, progress=False)
    assert model.rows == passes
    assert len(history) == math.ceil(steps / 3)
    whole, again = Line(), Line()
    fit(whole, rows(), epochs=2, batch_size=8, seed=3, progress=False)
    fit(again, rows(), steps=6, batch_size=8, seed=3, progress=False)
    assert torch.equal(whole.slope, again.slope)


def test_steps_end_with_a_score_of_the_held_out_rows_and_go_on_from_a_checkpoint(tmp_path):
    whole, cut = Line(), Line()
    arguments = {"steps": 7, "batch_size": 8, "progress": False}
    history = fit(whole, rows(), **arguments)

    class CutError(Exception):
        pass

    def stop(step: int, parts: object) -> None:
        if step == 5:
            raise CutError

    with pytest.raises(CutError):
        fit(cut, rows(), **arguments, checkpoint=tmp_path / "c.pt", checkpoint_steps=2, on_step=stop)
    resumed = Line()
    assert fit(resumed, rows(), **arguments, checkpoint=tmp_path / "c.pt") == history
    assert torch.equal(resumed.slope, whole.slope)


def test_what_fit_cannot_take_is_named():
    with pytest.raises(TypeError, match=r"train\['x'\]: expected a tensor .*, got ndarray"):
        fit(Line(), rows() | {"x": rows()["x"].numpy()}, progress=False)
    with pytest.raises(TypeError, match=r"valid\['y'\]: expected a tensor .*, got list"):
        fit(Line(), rows(), valid=rows() | {"y": rows()["y"].tolist()}, progress=False)
    with pytest.raises(ValueError, match="steps: expected None with epochs, got 3"):
        fit(Line(), rows(), epochs=2, steps=3)


def test_the_time_budget_ends_training_after_a_step():
    model = Line()
    history = fit(model, rows(), epochs=5, batch_size=10, time_budget=0.0, progress=False)
    assert (len(history), model.rows, model.training) == (1, [10], False)


@pytest.mark.parametrize("installed", [True, False])
def test_the_bar_is_optional(installed, monkeypatch, capsys):
    real = builtins.__import__

    def without_tqdm(name, *args, **kwargs):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    if installed:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setattr(builtins, "__import__", without_tqdm)
    for progress in (True, False):
        assert len(fit(Line(), rows(), epochs=2, batch_size=10, progress=progress)) == 2
        assert ("step" in capsys.readouterr().err) == (installed and progress)


def test_labels_and_losses_that_are_not_finite_are_named():
    data = rows(4)
    with pytest.raises(ValueError, match="y: expected at least one training row, got none"):
        fit(Line(), {k: v[:0] for k, v in data.items()})
    with pytest.raises(ValueError, match="y: expected finite values, got nan at row 2"):
        fit(Line(), {**data, "y": torch.tensor([0.0, 1.0, math.nan, 1.0])})
    with pytest.raises(ValueError, match="loss: expected a finite value, got inf by step 1"):
        fit(Line(), {**data, "y": torch.full((4,), 1e30)}, epochs=1, progress=False)
