"""Models on a device that is not the CPU, without one: fake tensors of a device of their own.

An operation on tensors of two devices raises, and so does whatever reads a value of the device, `.item()` and `if tensor`: a
training step that does so waits for its GPU. Values are not computed; on a real GPU, ``ORDKERNELS_TEST_DEVICE=cuda`` has the
tests of the ops compute them. A device has to be made up before the first backward pass of a process, so these run in one of their own.
"""

import copy
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import torch
from test_diffor import ABLATIONS
from test_diffor import model as diffor
from test_diffor import table as diffor_table
from test_flowtime import data as flowtime_data
from test_flowtime import small as flowtime
from test_gr import model as gr
from test_gr import table as gr_table
from test_ifusion import batch as ifusion_batch
from test_ifusion import ifusion
from test_watch_time import MODELS
from test_watch_time import batch as watch_time_batch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ordkernels.models import fit

OTHER = "other"
ALONE = "ORDKERNELS_TEST_DEVICES_ALONE"


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    if ALONE not in os.environ:
        pytest.skip("test_in_a_process_of_its_own runs it")
    backend = pytest.importorskip("torch.utils.backend_registration")
    if not hasattr(backend, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} cannot make up a device in Python")
    with suppress(RuntimeError):  # once a process
        backend._setup_privateuseone_for_python_backend(OTHER)
    mode, randint, tensor = FakeTensorMode(), torch.randint, torch.tensor

    def constant(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        made = tensor(*args, **options)
        return made if device is None or torch.device(device).type == "cpu" else torch.empty(made.shape, dtype=made.dtype, device=device)

    # What a fake tensor has no value for: seeds drawn on the host, and constants on the made-up device.
    monkeypatch.setattr(torch, "randint", lambda *a, **k: 5 if a[-1] == () else randint(*a, **k))
    monkeypatch.setattr(torch, "tensor", constant)
    return mode


def moved(mode: FakeTensorMode, value: Any) -> Any:
    """A dict of tensors, or a module's copy, on the other device."""
    if isinstance(value, dict):
        return {name: mode.from_tensor(t).to(OTHER) for name, t in value.items()}
    value = copy.deepcopy(value)
    for module in value.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(p.detach()).to(OTHER), requires_grad=p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = mode.from_tensor(b).to(OTHER)
    return value


def trains(mode: FakeTensorMode, model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    with mode:
        parts = model.train().loss(moved(mode, batch))
        assert all(p.device.type == OTHER for p in parts.values())
        parts["loss"].backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert found
    assert all(g.device.type == OTHER for g in found)


def predicts(mode: FakeTensorMode, model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    with mode:
        x = moved(mode, {k: v for k, v in batch.items() if k != "y"})
        assert model.eval().predict(x).device.type == OTHER
        if hasattr(model, "sample"):
            assert model.sample(x, 4).device.type == OTHER


@pytest.mark.slow
@pytest.mark.skipif(ALONE in os.environ, reason="this is that process")
def test_in_a_process_of_its_own():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=os.environ | {ALONE: "1"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "24 passed, 1 skipped" in run.stdout or "cannot make up a device" in run.stdout, run.stdout[-1000:]


def test_fake_tensors_see_what_they_are_here_for(mode):
    with mode:
        a = torch.ones(3, device=OTHER)
        with pytest.raises(Exception, match="other:0 and cpu"):
            a + torch.ones(3)
        with pytest.raises(Exception, match="local_scalar_dense"):
            bool(a.sum() > 0)


def test_flowtime(mode):
    model = flowtime()
    model.prepare(flowtime_data())
    model = moved(mode, model)
    trains(mode, model, flowtime_data(16))
    predicts(mode, model, flowtime_data(16))


@pytest.mark.parametrize("name", ABLATIONS)
def test_diffor(mode, name):
    model = moved(mode, diffor(**ABLATIONS[name]))
    trains(mode, model, diffor_table(16))
    if (
        model.process == "flow_matching" or ABLATIONS[name].get("denoiser") == "transformer"
    ):  # `denoise_chain` reads its schedule on the host
        predicts(mode, model, diffor_table(16))


def test_gr(mode, monkeypatch):
    batch = gr_table()
    model = gr()
    tokens = model._tokens(batch["y"])  # labels are encoded on the host
    model = moved(mode, model)
    model.token_values = moved(mode, {"": model.token_values})[""]  # `.to` moves it, as `_apply` does
    monkeypatch.setattr(model, "_tokens", lambda *y: moved(mode, {"y": tokens})["y"])
    trains(mode, model, batch)


def test_ifusion(mode):
    model = moved(mode, ifusion())
    trains(mode, model, ifusion_batch())


@pytest.mark.parametrize("kind", MODELS)
def test_watch_time(mode, kind):
    model = kind(7, 5, 4, hidden=8)
    fit(model, watch_time_batch(32), epochs=1, progress=False)
    model = moved(mode, model)
    trains(mode, model, watch_time_batch(16))
    predicts(mode, model, watch_time_batch(16))
