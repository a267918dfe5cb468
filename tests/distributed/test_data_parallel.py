"""Training on two processes, by DDP and FSDP2: the losses and weights of one process on the joint batches."""

import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run
from torch import nn

from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, IFusion, fit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]

N, USERS, ITEMS, L, STEPS, HALF = 64, 7, 9, 5, 6, 16
IDS = {"n_users": USERS, "n_items": ITEMS, "dense_width": 3, "quantiles": L, "dropout": 0.0}


def table():
    g = torch.Generator().manual_seed(3)
    sessions = torch.randint(0, ITEMS + 1, (N, 3, 4), generator=g) * (torch.rand(N, 3, 1, generator=g) < 0.6)
    return {
        "user": torch.randint(USERS, (N,), generator=g), "item": torch.randint(ITEMS, (N,), generator=g),
        "dense": torch.randn(N, 3, generator=g), "q_user": torch.rand(N, L, generator=g).sort(1)[0] * 9,
        "q_item": torch.rand(N, L, generator=g).sort(1)[0] * 9, "has_user": (torch.rand(N, generator=g) < 0.8).float(),
        "has_item": (torch.rand(N, generator=g) < 0.8).float(), "y": torch.rand(N, generator=g) * 20,
        "long": torch.randint(0, ITEMS + 1, (N, 6), generator=g).sort(1, descending=True)[0].int(), "sessions": sessions.int(),
        "feedback": torch.rand(N, 3, 4, 2, generator=g), "click": (torch.rand(N, generator=g) < 0.4).float(),
        "row_ids": torch.arange(N) * 10**10,
    }  # fmt: skip


def models():
    return {
        "FlowTime": lambda: FlowTime(**IDS, hidden=16, latent=4, layers=2),
        "DiffoR": lambda: DiffoR(**IDS, hidden=16, latent=8, heads=4, crps_weight=0.5, eta=1.0, T=10),
        "GenerativeRegression": lambda: GenerativeRegression(vocabulary="manual", **IDS, hidden=16, attention_heads=2, ffn=16, layers=1),
        "IFusion": lambda: IFusion(**IDS, hidden=16, latent=8, sessions=3, long=6, feedback_width=2),
    }


def train(model, whole, batches):
    """The losses of some steps; each is of rows that `batches` yields."""
    torch.manual_seed(5)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    model.train()
    for rows in batches:
        loss = model({name: column[rows] for name, column in whole.items()})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def joint_batches():
    return [torch.arange(k * 2 * HALF, (k + 1) * 2 * HALF) % N for k in range(STEPS)]


def prepared(name):
    torch.manual_seed(0)
    model = models()[name]().double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    whole = {key: c.double() if c.is_floating_point() else c for key, c in table().items()}
    model.prepare(whole)
    return model, whole


def check_parallel(rank, kind, names):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel

    for name in names:
        model, whole = prepared(name)
        single = copy.deepcopy(model)
        expected = train(single, whole, joint_batches())
        model.means_over_processes = True
        if kind == "ddp":
            parallel = DistributedDataParallel(model, find_unused_parameters=True)
        else:
            parallel = fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        losses = torch.tensor(train(parallel, whole, [rows[rank * HALF : (rank + 1) * HALF] for rows in joint_batches()]))
        torch.distributed.all_reduce(losses)
        torch.testing.assert_close(losses / 2, torch.tensor(expected), rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
        whole_state = gathered(model) if kind == "fsdp" else model.state_dict()
        for key, value in single.state_dict().items():
            torch.testing.assert_close(whole_state[key], value, rtol=1e-5, atol=1e-7, msg=lambda text, k=key: f"{k}: {text}")
        alone = prepared(name)[0]
        alone.load_state_dict(whole_state)  # the sharded checkpoint, unsharded
        rows = {key: column[:9] for key, column in whole.items()}
        torch.testing.assert_close(alone.eval().predict(rows, n=4), single.eval().predict(rows, n=4), rtol=1e-4, atol=1e-4)


FITTED = ("FlowTime", "IFusion")  # the second has means over some of the rows


def fitted(name, rows, *, batch_size=21, **arguments):
    model, whole = prepared(name)
    whole["row_ids"] = torch.arange(N)
    valid = {key: column[:9] for key, column in whole.items() if key != "row_ids"}
    history = fit(model, {key: whole[key] for key in rows}, batch_size=batch_size, progress=False, valid=valid, **arguments)
    return history, torch.cat([p.detach().flatten() for p in model.parameters()])


def check_fit(rank, expected, folder):
    rows = [key for key in table() if key != "row_ids"]  # where there is a group, `fit` numbers them
    for name in FITTED:
        with contextlib.suppress(KeyboardInterrupt):
            fitted(name, rows, steps=9, checkpoint=folder / name, checkpoint_steps=2, on_step=cut_after_step_3)
        history, weights = fitted(name, rows, steps=9, checkpoint=folder / name, checkpoint_steps=2, time_budget=1e3)  # goes on
        want, want_weights = expected[name]
        assert len(history) == len(want) == 3
        for got, one in zip(history, want, strict=True):
            assert got == pytest.approx(one, rel=1e-6), name
        torch.testing.assert_close(weights, want_weights, rtol=1e-6, atol=1e-8)
    model, whole = prepared("FlowTime")
    with pytest.raises(ValueError, match=r"expected the same rows in all 2 processes, .*, got 31 rows with .* in process 1, 32 with "):
        fit(model, {key: column[rank::2][: 32 - rank] for key, column in whole.items()}, progress=False)


def cut_after_step_3(step, _):
    if step == 3:
        raise KeyboardInterrupt


def gathered(model: nn.Module):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=False, cpu_offload=False))


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(kind):
    run(check_parallel, 2, kind, list(models()))


def test_fit_in_two_processes_is_that_of_one(tmp_path):
    """Batches of 20, which 21 makes for two, the last of an epoch of 4."""
    expected = {name: fitted(name, table(), steps=9, batch_size=20) for name in FITTED}
    run(check_fit, 2, expected, tmp_path)


def test_torchrun_fits_a_table_and_its_first_process_alone_prints_and_writes(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "t.csv", np.stack((rng.normal(size=200), rng.gamma(2, 3, 200)), 1), delimiter=",", header="a,y", comments="")
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ordkernels", "fit", "t.csv", "--target", "y", "--out", "m"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, "--epochs", "1"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("160 rows to train on, 40 random ones to compare") == 1
    assert done.stdout.count("m: the model; m/validation.html: the comparison") == 1
    assert "Warning" not in done.stderr
    assert (tmp_path / "m" / "config.json").is_file()
