"""swap_in and swap_out: what stays, what comes back, what is left alone, and what the report says."""

import copy
import io
import json
import logging
import pickle
import subprocess
import sys

import pytest
import torch
from stand_ins import Clip, Flow, Own, Planar, Renamed, add_rules
from torch import nn
from torch.nn.utils import parametrize

import ordkernels
from ordkernels import swap, swap_in, swap_out


@pytest.fixture(autouse=True)
def _rules():
    add_rules()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Flow()


Z = torch.randn(33, 8, generator=torch.Generator().manual_seed(1))


def gradients(model, z):
    z = z.clone().requires_grad_()
    out, log_det = model(z)
    loss = (out.squeeze(1) * log_det).sum()
    return [out, log_det, *torch.autograd.grad(loss, [z, *model.parameters()], allow_unused=True, materialize_grads=True)]


def same(a, b):
    return all(x is y if isinstance(x, nn.Module) else torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_all_that_is_not_time_stays(model):
    model.layers[0].eval()
    fired = []
    model.layers[0].register_forward_hook(lambda *_: fired.append(1))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    keys, modes, text = list(model.state_dict()), [m.training for m in model.modules()], repr(model)
    report = swap_in(model)
    assert [row.path for row in report.swapped] == ["layers.0", "layers.1"]
    assert all(m is modules[name] for name, m in model.named_modules())
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert list(model.state_dict()) == keys
    assert [m.training for m in model.modules()] == modes
    assert repr(model) == text
    assert isinstance(model.layers[1], Renamed)
    assert model.layers[1].__class__.__name__ == "Renamed"
    model(Z)
    assert fired == [1]
    model.load_state_dict(model.state_dict())
    model.half()
    assert model.layers[0](Z.half())[0].dtype == torch.float16


@pytest.mark.parametrize("how", ["report", "swap_out", "context"])
def test_undone_bit_for_bit(model, how):
    before, state = gradients(model, Z), [dict(vars(m)) for m in model.modules()]
    if how == "context":
        with swap_in(model):
            gradients(model, Z)
            assert type(model.layers[0]) is not Planar
    else:
        report = swap_in(model)
        gradients(model, Z)
        assert swap_out(model) == ["layers.0", "layers.1"] if how == "swap_out" else report.undo() is None
    assert [type(layer) for layer in model.layers] == [Planar, Renamed, Own, Planar]
    for m, was in zip(model.modules(), state, strict=True):
        assert vars(m).keys() == was.keys()
        assert all(vars(m)[name] is value for name, value in was.items())
    assert model.layers[0].forward.__func__ is Planar.forward
    assert same(gradients(model, Z), before)
    assert swap_out(model) == []


def test_outputs_and_gradients_to_fp64(model):
    model.double()
    before = gradients(model, Z.double())
    report = swap_in(model)
    for a, b in zip(gradients(model, Z.double()), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert [row.calls for row in report.swapped] == [1, 1]
    assert [row.verified for row in report.swapped] == [["forward"], ["forward"]]
    assert all(row.max_error < 1e-13 and row.max_gradient_error < 1e-10 for row in report.swapped)


def test_a_second_swap_does_nothing(model):
    first = swap_in(model)
    classes = [type(m) for m in model.modules()]
    second = swap_in(model)
    assert second.swapped == []
    assert [s.reason for s in second.skipped[:2]] == ["already swapped"] * 2
    second.undo()
    assert [type(m) for m in model.modules()] == classes
    first.undo()
    again = swap_in(model)
    first.undo()  # has nothing of its own left
    assert len(again.swapped) == 2
    assert type(model.layers[0]) is not Planar


@pytest.mark.parametrize(
    ("chosen", "paths"),
    [
        ({"include": "layers.0"}, ["layers.0"]),
        ({"include": ["layers.1", Clip]}, ["layers.1"]),
        ({"include": Renamed}, ["layers.1"]),
        ({"exclude": "*.0"}, ["layers.1"]),
        ({"exclude": (Renamed,)}, ["layers.0"]),
        ({"include": Planar, "exclude": "layers.*"}, []),
        ({"include": "nothing.*"}, []),
    ],
)
def test_a_choice_of_paths_and_classes(model, chosen, paths):
    assert [row.path for row in swap_in(model, **chosen).swapped] == paths


def test_what_is_left_alone_and_why(model):
    model.layers[1].forward = model.layers[1].forward
    report = swap_in(model)
    assert [(s.path, s.reason) for s in report.skipped] == [
        ("layers.1", "this object has its own forward, set on the instance"),
        ("layers.2", "the subclass Own has its own forward"),
        ("layers.3", "act='relu'"),
    ]
    assert "u is on the meta device" in swap_in(Planar().to("meta")).skipped[0].reason
    turned = Planar()
    parametrize.register_parametrization(turned, "w", nn.Tanh())
    assert swap_in(turned).skipped[0].reason == "its parameters are parametrized"


def test_strict(model):
    with pytest.raises(ValueError, match=r"strict: expected something to swap, got nothing: .*act='relu'"):
        swap_in(model.layers[3], strict=True)
    with pytest.raises(ValueError, match="no rule is for any part of it"):
        swap_in(nn.Linear(2, 2), strict=True)
    assert swap_in(model, strict=True).swapped


def test_ops_can_be_switched_off(model, monkeypatch):
    monkeypatch.setenv("ORDKERNELS_DISABLE", "crps, planar_flow")
    report = swap_in(nn.ModuleList([model, Clip()]))
    assert [row.op for row in report.swapped] == ["nested_min"]
    assert report.skipped[0].reason == "ORDKERNELS_DISABLE names planar_flow"
    monkeypatch.setenv("ORDKERNELS_DISABLE", "planar_flows")
    with pytest.raises(ValueError, match="ORDKERNELS_DISABLE: expected names of ops, got planar_flows"):
        swap_in(model)


def test_wrong_calls(model):
    for call in (swap_in, swap_out):
        with pytest.raises(TypeError, match="targets: expected"):
            call()
    with pytest.raises(TypeError, match="include: expected a pattern of paths, a class, or a list of them, got 3"):
        swap_in(model, include=3)
    with pytest.raises(ValueError, match="targets: expected a model or a package with rules"):
        swap_in("json")


def test_the_report(model, caplog):
    with caplog.at_level(logging.INFO, "ordkernels"):
        report = swap_in(model)
    assert [r.getMessage() for r in caplog.records] == [
        f"swap_in: layers.{i} (stand_ins.{name}) -> ops.planar_flow on {report.swapped[0].backend}"
        for i, name in enumerate(("Planar", "Renamed"))
    ]
    assert report.swapped[0].max_error is None
    model(Z)
    model.layers[0](Z)
    fields = json.loads(json.dumps(report.to_dict()))
    assert fields["skipped"][1] == {"path": "layers.3", "original": "stand_ins.Planar", "reason": "act='relu'"}
    row = fields["swapped"][0]
    assert (row["path"], row["original"], row["op"], row["calls"]) == ("layers.0", "stand_ins.Planar", "planar_flow", 2)
    assert 0 < row["max_error"] < 1e-5 > row["max_gradient_error"]
    assert row["backend"] in ("cpu", "reference")
    with ordkernels.use_backend("reference"):
        assert report.swapped[0].backend == "reference"
    for text in (str(report), report.text, report._repr_html_()):
        assert all(word in text for word in ("layers.0", "stand_ins.Renamed", "planar_flow", "max gradient error"))
    assert "act=&#x27;relu&#x27;" in report._repr_html_()
    assert repr(report) == "<Report: 2 swapped, 2 left alone>"


def test_calls_that_the_original_serves_are_counted(model):
    report = swap_in(model.layers[0])
    with pytest.raises(RuntimeError, match="size of tensor"):  # the original's own error
        model.layers[0](torch.randn(3, 5, 7))
    assert same(model.layers[0](Z[0]), Planar.forward(model.layers[0], Z[0]))
    assert report.swapped[0].fallbacks == {"z is not a matrix": 2}  # the first one too
    assert report.swapped[0].calls == 0
    assert report.swapped[0].verified == []
    assert "2 calls served by the original: z is not a matrix" in report.text


def test_training_goes_on(model):
    """The optimizer holds the parameters, and its steps are those without a swap."""
    twin = copy.deepcopy(model)
    losses = []
    for m, swapped in ((model, True), (twin, False)):
        optimizer = torch.optim.Adam(m.parameters(), lr=0.1)
        for step in range(6):
            if swapped and step == 2:
                report = swap_in(m)
            if swapped and step == 4:
                report.undo()
            out, log_det = m(Z)
            loss = (out.square().squeeze(1) - log_det).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:6] == pytest.approx(losses[6:], abs=1e-5)


def test_copies(model):
    report = swap_in(model)
    twin = copy.deepcopy(model)
    assert type(twin.layers[0]) is type(model.layers[0])
    twin(Z)
    assert [row.calls for row in report.swapped] == [0, 0]
    assert swap_out(twin) == ["layers.0", "layers.1"]
    assert type(twin.layers[0]) is Planar
    assert same(twin(Z), pickle.loads(pickle.dumps(twin))(Z))
    for loads in (lambda m: pickle.loads(pickle.dumps(m)), lambda m: pickle.loads(pickle.dumps(m, protocol=1)), _saved):
        loaded = loads(model)
        assert type(loaded.layers[0]) is Planar
        assert "_swap_record" not in vars(loaded.layers[0])
        assert same(loaded(Z), twin(Z))
    assert type(copy.copy(model.layers[0])) is Planar


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert b"ordkernels" not in buffer.getvalue()
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.registration
def test_compiled_code_follows_the_swap(model):
    graphs = []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=keep, fullgraph=True)
    before = compiled(Z)
    report = swap_in(model)
    for a, b in zip(compiled(Z), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    report.undo()
    assert same(compiled(Z), before)
    assert ["planar_flow" in g for g in graphs] == [False, True]
    assert report.swapped[0].verified == []  # the first call was compiled: the report says that nothing is verified


def test_functional_transforms(model):
    report = swap_in(model.layers[0])
    layer = model.layers[0]
    each = torch.func.vmap(torch.func.jacrev(lambda z: layer(z[None])[0][0]))(Z[:5])
    assert report.swapped[0].verified == []
    assert "(model): in use, not verified" in report.text
    torch.testing.assert_close(torch.linalg.slogdet(each)[1], layer(Z[:5])[1], rtol=1e-4, atol=1e-5)


def test_symbolic_tracing_records_the_original(model):
    before = model.layers[0](Z)
    report = swap_in(model.layers[0])
    traced = torch.fx.symbolic_trace(model.layers[0])
    assert same(traced(Z), before)
    assert report.swapped[0].calls == 0


def test_import_is_light():
    code = """
import sys, ordkernels
assert "ordkernels.swap" not in sys.modules
ordkernels.swap_in
found = [name for name in ("normflows", "pyro", "diffusers", "torchmetrics", "scipy", "pandas") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kinks(model):
    """Where gradients jump, rounding cannot decide a verdict: gradients are compared in fp64."""
    layer = Clip()
    report = swap_in(layer)
    widths = torch.full((4,), 0.1)
    increments = torch.full((1000, 4), 0.1) * (1 + (2 * torch.randint(0, 2, (1000, 4)) - 1) * 2**-22)
    layer(increments, widths)
    assert report.swapped[0].verified == ["forward"]
    assert report.swapped[0].max_gradient_error < 1e-12


def test_the_rule_added_last_counts(model):
    @swap.rule(Renamed, op="planar_flow")
    class Mine:
        def forward(self, z):
            return swap.original(self).forward(z)

    report = swap_in(model.layers[1])
    assert same(model.layers[1](Z), Planar.forward(model.layers[1], Z))
    assert report.swapped[0].calls == 1
    with pytest.raises(ValueError, match="Empty: expected methods to replace, got none"):

        @swap.rule(Renamed, op="planar_flow")
        class Empty:
            pass
