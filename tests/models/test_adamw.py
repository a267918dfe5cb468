"""The optimizer of `fit` against torch's AdamW, clipping and averages: all parameters; rows of tables, which make steps together."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import ordkernels
from ordkernels.models import _adamw, fit
from ordkernels.models._adamw import AdamW, IdEmbedding

pytestmark = pytest.mark.native
KERNEL = torch.ops.ordkernels
ROWS = 400


class Model(nn.Module):
    """Reads few rows of its table, and one parameter only now and then."""

    def __init__(self, dtype=torch.float64, width=5):
        super().__init__()
        self.table, self.linear = IdEmbedding(ROWS, width), nn.Linear(width, 3)
        self.rare, self.never = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))
        self.register_buffer("calls", torch.zeros(()))
        self.to(dtype)

    def loss(self, batch):
        self.calls += 1
        x = self.linear(self.table(batch["ids"]))
        if int(batch["ids"][0]) % 2:
            x = x + self.rare
        if int(batch["ids"][0]) % 7 == 0:  # without the table
            x = x.detach() + self.rare * self.linear.bias
        return {"loss": 30 * (x.sum(1) - batch["y"]).square().mean()}


def rows(n=200):
    return {"ids": torch.randint(ROWS - 50, (n,)), "y": torch.randn(n, dtype=torch.float64)}


def trained(model, train, by_torch, monkeypatch, **options):
    model = copy.deepcopy(model)
    with monkeypatch.context() as patch:
        if by_torch:
            patch.setattr(AdamW, "serves", staticmethod(lambda model: False))
        history = fit(model, train, batch_size=4, progress=False, lr=0.03, **options)
    return model, history


@pytest.mark.parametrize("average", [0.0, 0.97])
@pytest.mark.parametrize("steps_together", [7, 4096])
def test_training_is_that_of_torch(monkeypatch, average, steps_together):
    monkeypatch.setattr(_adamw, "_STEPS_TOGETHER", steps_together)
    torch.manual_seed(0)
    model, train = Model(), rows()
    ours, history = trained(model, train, False, monkeypatch, epochs=4, average=average)
    plain, expected = trained(model, train, True, monkeypatch, epochs=4, average=average)
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
    assert history[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=1e-9)
    assert ours.table.rows is None
    assert AdamW.serves(ours)


def test_single_precision_is_as_near_as_torchs(monkeypatch):
    torch.manual_seed(1)
    model, train = Model(torch.float64, width=21), rows()
    exact, _ = trained(model, train, True, monkeypatch, epochs=4)
    train["y"] = train["y"].float()
    ours, _ = trained(model.float(), train, False, monkeypatch, epochs=4)
    plain, _ = trained(model, train, True, monkeypatch, epochs=4)
    error, usual = ((m.table.weight - exact.table.weight).abs().max() for m in (ours, plain))
    assert error <= 4 * usual + torch.finfo(torch.float32).eps * exact.table.weight.abs().max()


def test_rows_that_no_batch_reads_decay_and_are_averaged():
    torch.manual_seed(0)
    p, steps = torch.randn(ROWS, 3, dtype=torch.float64), torch.rand(900, 4, dtype=torch.float64)
    steps[:, 0], steps[:, 1], steps[:, 2] = 1e-3 * steps[:, 0], 1e-3, 1.0
    mean, m, v = torch.randn_like(p), torch.randn_like(p) * (torch.rand(ROWS, 1) < 0.5), torch.rand_like(p)
    last = torch.randint(900, (ROWS,))
    expected = [t.clone() for t in (p, m, v, mean)]
    for s, (decay, rate, root, weight) in enumerate(steps.tolist()):
        due = last <= s
        ep, em, ev, emean = (t[due] for t in expected)
        em, ev = em * 0.9, ev * 0.999
        ep = ep - ep * decay - rate * em / (ev.sqrt() * root + 1e-8)
        for t, value in zip(expected, (ep, em, ev, emean + (ep - emean) * weight), strict=True):
            t[due] = value
    KERNEL.adamw_rows(p, m, v, mean, None, None, last, steps, 1.0, 0.9, 0.999, 1e-8)
    for a, b in zip((p, m, v, mean), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert bool((last == 900).all())


def test_a_checkpoint_goes_on_to_rounding_and_is_torchs_own(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model, train = Model(), rows()
    whole, _ = trained(model, train, False, monkeypatch, epochs=4)
    cut = copy.deepcopy(model)

    def stop(step, parts):
        if step == 90:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cut, train, batch_size=4, progress=False, lr=0.03, epochs=4, checkpoint=tmp_path / "c", checkpoint_steps=30, on_step=stop)
    assert cut.table.rows is None
    state = torch.load(tmp_path / "c", weights_only=True)["optimizer"]
    torch.optim.AdamW(model.parameters()).load_state_dict(state)
    fit(cut, train, batch_size=4, progress=False, lr=0.03, epochs=4, checkpoint=tmp_path / "c")
    for a, b in zip(whole.state_dict().values(), cut.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_number_of_threads_does_not_matter():
    torch.manual_seed(0)
    shapes = [(70_000,), (3, 5), (0, 4), (16_385, 1)]
    parts = [[torch.rand(s) for s in shapes] for _ in range(5)]
    steps, found = torch.rand(4, 4).double(), []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        p, m, v, mean, g = ([t.clone() for t in part] for part in parts)
        try:
            scale = KERNEL.adamw_step(p, m, v, mean, g, [torch.ones(7)], steps, 1.0, 0.9, 0.99, 1e-8)
        finally:
            torch.set_num_threads(before)
        found.append((scale, p, m, v, mean))
    norm = torch.cat([t.flatten() for t in (*parts[4], torch.ones(7))]).double().norm()
    assert found[0][0] == found[1][0] == pytest.approx(1 / (float(norm) + 1e-6))
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_step_is_seen_by_what_keeps_weights_in_another_form():
    model = Model()
    with AdamW(model, [], 0.1, 0.0, 5.0, 4) as optimizer:
        before = [p._version for p in model.parameters()]
        model.loss({"ids": torch.tensor([1, 3]), "y": torch.ones(2)})["loss"].backward()
        optimizer.step()
        after = [p._version for p in model.parameters()]
    changed = [b > a for a, b in zip(before, after, strict=True)]
    assert changed == [name != "never" for name, _ in model.named_parameters()]


def test_a_copy_in_training_is_a_plain_table(monkeypatch):
    torch.manual_seed(0)
    model, copies = Model(), []

    def keep(step, parts):
        copies.append((copy.deepcopy(model), pickle.loads(pickle.dumps(model.table)), io.BytesIO()))
        torch.save(model.state_dict(), copies[-1][2])

    fit(model, rows(), batch_size=4, progress=False, steps=30, average=0.0, on_step=keep)
    assert all(c.table.rows is None and t.rows is None for c, t, _ in copies)
    plain = copy.deepcopy(copies[-1][0])
    copies[-1][2].seek(0)
    for weight in (torch.load(copies[-1][2])["table.weight"], model.table.weight):
        assert torch.equal(weight, plain.table.weight)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(rows=torch.tensor([ROWS])), "rows: expected 0 to 399, got 400"),
        (dict(last=torch.full((ROWS,), 9)), "last: expected 0 to 2, got 9"),
        (dict(last=torch.zeros(3, dtype=torch.int64)), "last: expected shape"),
        (dict(grad=torch.zeros(2, 3)), "last: expected 1 to 1, got 0"),
        (dict(steps=torch.zeros(2, 3).double()), r"steps: expected \[N, 4\]"),
        (dict(m=torch.zeros(ROWS, 3).double()), "exp_avg: expected float32"),
        (dict(p=torch.zeros(3, ROWS).T), "param: expected contiguous"),
    ],
)
def test_the_kernel_checks_again(change, text):
    call = dict(p=torch.zeros(ROWS, 3), m=torch.zeros(ROWS, 3), v=torch.zeros(ROWS, 3), mean=None, grad=None, rows=torch.tensor([0, 5]))
    call |= dict(last=torch.zeros(ROWS, dtype=torch.int64), steps=torch.zeros(2, 4).double()) | change
    with pytest.raises(RuntimeError, match=text):
        KERNEL.adamw_rows(*call.values(), 1.0, 0.9, 0.999, 1e-8)


def test_models_that_the_kernels_do_not_take_are_trained_by_torch():
    for model in (Model(torch.bfloat16), nn.Linear(2, 2, device="meta")):
        assert not AdamW.serves(model)
    with ordkernels.use_backend("reference"):
        assert not AdamW.serves(Model())
