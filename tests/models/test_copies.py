"""Models, samplers and schedules are pickled, deep-copied and saved whole, fresh, in training and after predictions."""

import copy
import io
import pickle

import pytest
import torch
from test_model_dtypes import MODELS, prepare, table

from ordkernels import nn, samplers, schedules

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "torch.save": lambda x: _saved(x),
}


def _saved(x):
    buffer = io.BytesIO()
    torch.save(x, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("copied", COPIES)
def test_models(name, copied):
    torch.manual_seed(0)
    model, rows, clone = MODELS[name](), table(), COPIES[copied]
    assert clone(model).state_dict().keys() == model.state_dict().keys()
    prepare(model, rows)
    model.loss(rows)["loss"].backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    in_training = clone(model)
    assert in_training.training
    expected = model.eval().predict(rows)
    for other in (in_training.eval(), clone(model)):
        assert torch.equal(other.predict(rows), expected)
    in_training.train()
    assert bool(torch.isfinite(in_training.loss(rows)["loss"]))


@pytest.mark.parametrize("copied", COPIES)
def test_samplers(copied):
    for name in ("FlowTime", "DiffoR", "GenerativeRegression", "IFusion"):
        torch.manual_seed(0)
        model, rows = MODELS[name](), table()
        prepare(model, rows)
        sampler = model.eval().sampler()
        other = COPIES[copied](sampler)
        assert isinstance(other, samplers.Sampler)
        assert other.model is not model
        assert torch.equal(other.sample(rows, 5, seed=3), sampler.sample(rows, 5, seed=3))


@pytest.mark.parametrize("copied", COPIES)
def test_schedules_and_networks(copied):
    clone = COPIES[copied]
    schedule = schedules.NoiseSchedule.cosine(20)
    assert torch.equal(clone(schedule).alpha_bar, schedule.alpha_bar)
    torch.manual_seed(0)
    denoiser = nn.MLPDenoiser(6, 3).eval()
    x, c = torch.randn(4, 6), torch.randn(4, 3)
    assert torch.equal(clone(denoiser)(x, 7, c), denoiser(x, 7, c))
    flow = nn.PlanarFlow(5, 3)
    z = torch.randn(4, 5)
    assert all(torch.equal(a, b) for a, b in zip(clone(flow)(z), flow(z), strict=True))
