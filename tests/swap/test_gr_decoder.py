"""The GR authors' decoder and evaluation, by stand-ins of the same structure: results, gradients, random stream, tokens, metrics."""

import copy
import sys
import types

import gr_stand_in
import pytest
import torch
from torch import nn

from ordkernels import ops, swap, swap_in, swap_out
from ordkernels.swap import gr_decoder


def decoder(seed=0, dtype=torch.float64, **sizes):
    torch.manual_seed(seed)
    return gr_stand_in.Decoder(**sizes).to(dtype)


def inputs(B=5, L=6, d=16, V=40, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, V, (B, L), generator=g)
    keep = torch.ones(B, L, dtype=torch.bool)
    keep[0, 4:] = False
    mask = (keep[:, None] & torch.ones(L, L, dtype=torch.bool).tril())[:, None]
    memory = torch.randn(B, 1, d, generator=g, dtype=torch.float64).to(dtype)
    mixed = [tokens[:, i : i + 1] if i in (0, 3) else torch.randn(B, V, generator=g, dtype=torch.float64).to(dtype) for i in range(L)]
    return tokens, mixed, memory, mask, torch.ones(B, 1, 1, 1)


def results(model, given, mixup, seed=3):
    tokens, mixed, memory, mask, memory_mask = given
    memory = memory.clone().requires_grad_()
    logits = [t.clone().requires_grad_() if t.is_floating_point() else t for t in mixed]
    torch.manual_seed(seed)
    if mixup is None:
        out, x = model(tokens, memory, mask, memory_mask)
    else:
        out, x = model.weight_forward(logits if mixup else tokens, memory, mask, memory_mask, mixup)
    leaves = [memory, *model.parameters(), *(t for t in logits if mixup and t.is_floating_point())]
    weight = torch.linspace(1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    gradients = torch.autograd.grad((out * weight).sum() + x.square().sum(), leaves)  # none of them is unused
    return [out, x, *gradients, torch.rand(3)]


@pytest.mark.parametrize("mixup", [None, False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"heads": 1, "layers": 1}, {"V": 5, "layers": 3}, {"p": 0.0}], ids=str)
def test_results_gradients_and_the_random_stream(mixup, training, sizes):
    model = decoder(**sizes).train(training)
    given = inputs(V=sizes.get("V", 40))
    before = results(model, given, mixup)
    report = swap_in(model, strict=True)
    for a, b in zip(results(model, given, mixup), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    row = report.swapped[0]
    assert (row.calls, row.fallbacks, row.verified) == (1, {}, ["forward" if mixup is None else "weight_forward"])
    report.undo()
    assert type(model) is gr_stand_in.Decoder
    assert all(torch.equal(a, b) for a, b in zip(results(model, given, mixup), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes(dtype):
    model = decoder(dtype=dtype)
    report = swap_in(model)
    given = inputs(B=64, dtype=dtype)
    for mixup in (None, True):
        assert results(model, given, mixup)[0].dtype == dtype
    assert report.swapped[0].verified == ["forward", "weight_forward"]


def test_masked_memories_and_rows_are_nan_as_in_the_original():
    model = decoder().eval()
    tokens, _, memory, mask, memory_mask = inputs()
    memory_mask[2] = 0
    mask[3, :, 1] = False
    before = model(tokens, memory, mask, memory_mask)[0]
    assert before[2].isnan().all()
    assert before[3, 1].isnan().all()
    swap_in(model)
    torch.testing.assert_close(model(tokens, memory, mask, memory_mask)[0], before, rtol=1e-10, atol=1e-10, equal_nan=True)


def test_memories_of_more_tokens_are_left_to_the_original():
    model = decoder().eval()
    tokens, _, _, mask, _ = inputs()
    memory, memory_mask = torch.randn(5, 3, 16, dtype=torch.float64), torch.ones(5, 1, 1, 3)
    before = model(tokens, memory, mask, memory_mask)[0]
    report = swap_in(model)
    assert torch.equal(model(tokens, memory, mask, memory_mask)[0], before)
    assert report.swapped[0].fallbacks == {"a memory of more than one token": 1}


def test_other_structures_are_left_alone():
    gelu = decoder()
    gelu.layers[1].ffn.relu = nn.GELU()
    assert swap_in(gelu).skipped[0].reason == "activation GELU"
    norm = decoder()
    norm.layers[1].norm2 = nn.LayerNorm(16, eps=1e-3)
    assert swap_in(norm).skipped[0].reason == "norms with different eps"
    hooked = decoder()
    hooked.layers[0].ffn.register_forward_hook(lambda *_: None)
    assert "hooks" in swap_in(hooked).skipped[0].reason
    other = decoder()
    del other.layers[0].dropout3
    assert swap_in(other).text == "nothing swapped"


def test_training_is_the_same():
    losses = []
    for swapped in (False, True):
        model = decoder(dtype=torch.float64)
        if swapped:
            swap_in(model)
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-2)  # moves parameters whose gradient is 0, but not None
        tokens, mixed, memory, mask, memory_mask = inputs()
        for _ in range(5):
            out, _ = model.weight_forward(mixed, memory, mask, memory_mask, True)
            loss = nn.functional.cross_entropy(out.flatten(0, 1), tokens.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        unused = model.layers[0].enc_dec_attention.w_q.weight
        losses.append(unused.abs().sum().item())
    assert losses[:6] == pytest.approx(losses[6:], rel=1e-10)


@pytest.fixture
def inference(monkeypatch):
    module, user = types.ModuleType("inference"), types.ModuleType("train_script")
    module.evaluate = user.evaluate = gr_stand_in.evaluate
    monkeypatch.setitem(sys.modules, "inference", module)
    monkeypatch.setitem(sys.modules, "train_script", user)
    return user


THEIRS = [gr_stand_in.evaluate]  # in a list: a swap replaces the function in every module that holds it, this one too


def loader(B=16, batches=3, first=1):
    g = torch.Generator().manual_seed(5)
    return [
        (torch.randn(B, 5, generator=g), torch.ones(B, 5), torch.ones(B, 5), torch.rand(B, 1, generator=g), torch.full((B, 7), first), None)
        for _ in range(batches)
    ]


DURATIONS = torch.cat((torch.zeros(3), torch.linspace(2000, 1, 37)))


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("max_len", [20, 5])
def test_evaluation(inference, mixup, max_len):
    for seed in range(4):
        torch.manual_seed(seed)
        model = gr_stand_in.Model()
        nn.init.normal_(model.decoder.linear.weight, std=0.4)  # rows that end at different steps; larger weights make a chaotic loop
        with torch.no_grad():
            model.decoder.linear.bias[2] = 1.0
        expected = inference.evaluate(loader(), model, 20, mixup, DURATIONS, "cpu", max_len)
        model.train()
        report = swap_in("inference", strict=True)
        assert inference.evaluate is not THEIRS[0]
        assert inference.evaluate(loader(), model, 20, mixup, DURATIONS, "cpu", max_len=max_len) == pytest.approx(expected, abs=1.1e-4)
        assert not model.training
        assert report.swapped[0].verified == ["evaluate"]
        report.undo()
        assert inference.evaluate is THEIRS[0]


@pytest.mark.parametrize("mixup", [False, True])
def test_the_tokens_are_the_same(mixup):
    """The loop token by token, beside value_decode with the weights as the rule packs them."""
    torch.manual_seed(0)
    model = gr_stand_in.Model().double().eval()
    nn.init.normal_(model.decoder.linear.weight)
    memory = torch.randn(50, 1, 16, dtype=torch.float64)
    written, fed = torch.ones(50, 1, dtype=torch.long), [torch.ones(50, 1, dtype=torch.long)]
    with torch.no_grad():
        for _ in range(9):
            mask = model.make_trg_mask(written, torch.ones_like(written, dtype=torch.bool))
            out, _ = model.decoder.weight_forward(fed if mixup else written, memory, mask, None, mixup)
            written, fed = torch.cat((written, out[:, -1].argmax(-1, keepdim=True)), 1), [*fed, out[:, -1]]
    result = ops.value_decode(
        memory[:, 0], gr_decoder._weights(model.decoder), DURATIONS.double(), max_tokens=10, mixup="full" if mixup else None
    )
    ended = (written[:, 1:] == 2).cumsum(1) > 0
    before = ended.roll(1, 1)
    before[:, 0] = False
    assert torch.equal(torch.where(before, 0, written[:, 1:]), result.tokens)
    assert len(set(result.lengths.tolist())) > 1


def test_evaluations_that_are_left_to_the_original(inference):
    model = gr_stand_in.Model()
    report = swap_in("inference")
    expected = THEIRS[0](loader(first=4), model, 20, False, DURATIONS, "cpu")
    assert inference.evaluate(loader(first=4), model, 20, False, DURATIONS, "cpu") == expected
    model.decoder.layers[0].ffn.relu = nn.GELU()
    inference.evaluate(loader(), model, 20, False, DURATIONS, "cpu")
    assert sorted(report.swapped[0].fallbacks) == [
        "a memory of more than one token, or sequences that do not begin with SOS",
        "activation GELU",
    ]


def test_another_module_of_that_name_is_left_alone(monkeypatch):
    module = types.ModuleType("inference")
    exec("def evaluate(model): return model", module.__dict__)
    monkeypatch.setitem(sys.modules, "inference", module)
    report = swap_in("inference")
    assert "another structure" in report.skipped[0].reason
    assert module.evaluate(3) == 3


def test_model_and_evaluation_in_one_line(inference):
    model = gr_stand_in.Model()
    twin = copy.deepcopy(model)
    with swap_in(model, "inference") as report:
        assert [row.path for row in report.swapped] == ["decoder", "inference.evaluate"]
        got = inference.evaluate(loader(), model, 20, True, DURATIONS, "cpu")
    assert got == pytest.approx(THEIRS[0](loader(), twin, 20, True, DURATIONS, "cpu"), abs=1.1e-4)
    assert swap_out(model, "inference") == []


def test_a_planted_error_raises(inference, monkeypatch):
    right = ops.value_decode
    monkeypatch.setattr(ops, "value_decode", lambda *a, **k: right(*a, **k)._replace(value=torch.zeros(16)))
    swap_in("inference")
    with pytest.raises(swap.SwapError, match=r"inference.evaluate by ops.value_decode"):
        inference.evaluate(loader(), gr_stand_in.Model(), 20, False, DURATIONS, "cpu")
    assert inference.evaluate is THEIRS[0]
