"""iFusion and the poolings: its losses by hand, cold rows, what is masked, every ablation, the sampler's promises."""

import numpy as np
import pytest
import torch

from ordkernels import ops, rng, use_backend
from ordkernels.models import IFusion, PooledFusion, fit
from ordkernels.models._interest import SequenceEncoder
from ordkernels.models._noise import LossNoise
from ordkernels.samplers import FusionSampler

USERS, ITEMS, F, Q = 7, 12, 5, 6
SIZES = {"n_users": USERS, "n_items": ITEMS, "dense_width": F, "latent": 8, "hidden": 16, "sessions": 3, "quantiles": Q,
         "T": 10, "denoiser_hidden": 16, "long": 6, "attention_heads": 2, "levels": 8}  # fmt: skip
POOLED = {k: v for k, v in SIZES.items() if k not in ("T", "denoiser_hidden")}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(B=24, seed=0, P=4, S=3, M=6):
    """Rows 0: without a history; 1: without sessions; 2: without either; 3: with one session, the last."""
    g = torch.Generator().manual_seed(seed)
    long = torch.randint(1, ITEMS + 1, (B, M), generator=g) * (torch.arange(M) < torch.randint(1, M + 1, (B, 1), generator=g))
    sessions = torch.randint(1, ITEMS + 1, (B, P, S), generator=g) * (torch.arange(S) < torch.randint(1, S + 1, (B, P, 1), generator=g))
    sessions *= (torch.arange(P) >= P - torch.randint(2, P + 1, (B, 1), generator=g))[..., None]
    long[[0, 2]] = 0
    sessions[[1, 2]] = 0
    sessions[3, :-1] = 0
    q = torch.rand(2, B, Q, generator=g).mul(30).sort(dim=2).values
    feedback = torch.rand(B, P, S, 3, generator=g).masked_fill((sessions == 0)[..., None], torch.nan)
    return {
        "user": torch.randint(0, USERS, (B,), generator=g), "item": torch.randint(0, ITEMS, (B,), generator=g),
        "dense": torch.randn(B, F, generator=g), "q_user": q[0], "q_item": q[1], "has_user": torch.ones(B), "has_item": torch.ones(B),
        "long": long.int(), "sessions": sessions.int(), "feedback": feedback, "click": (torch.rand(B, generator=g) < 0.4).float(),
        "y": torch.rand(B, generator=g) * 30, "row": torch.arange(B) + 100,
    }  # fmt: skip


def ifusion(seed=0, **options):
    torch.manual_seed(seed)
    model = IFusion(**{**SIZES, **options})
    model.prepare(batch())
    return model.eval()


def padded_items(parts):
    """The sessions' encoded items ``[B, P, S, D]``, zeros where there are none."""
    if parts.items.dim() == 4:
        return parts.items
    padded = parts.items.new_zeros(*parts.mask.shape, parts.items.shape[1])
    padded[parts.mask] = parts.items
    return padded


def test_losses_by_hand():
    """Every term from its definition, one row and one session at a time, on what the loss itself draws."""
    model, rows = ifusion(drop_cp=0.0, drop_tf=0.0), batch()
    B, D, K = len(rows["y"]), 8, 3
    torch.manual_seed(5)
    with torch.no_grad():
        found = model.loss(rows)
    torch.manual_seed(5)
    random = LossNoise({}, torch.zeros(()))
    start = random.normal(B, D)
    t = random.integers(1, 11, B, copies=2)
    noise = random.normal(B, D, copies=2)
    with torch.no_grad():
        parts = model.interests(rows, K + 1)
        items = padded_items(parts)
        g_cp, g_tf = model.filters(items, parts.mask)
        f, fused, chain, apart = {}, torch.empty(2, B, D), torch.empty(B, D), []
        bar = model.schedule.alpha_bar
        for b in range(B):
            h = parts.long[b] if rows["long"][b].any() else start[b]
            for i in range(2):
                ab = bar[t[i * B + b]]
                x = ab.sqrt() * h + (1 - ab).sqrt() * noise[i * B + b]
                for mode, which in (("evo", range(K)), ("task", range(1, K + 1))):
                    sides = []
                    for g in (g_cp, g_tf):
                        z = x[None]
                        for k in which:
                            if parts.present[b, k]:
                                z = model.denoiser(z, t[i * B + b], g[b, k][None, None])
                        sides.append(z[0])
                    f[mode, i, b] = (2 * sides[0] + 1 * sides[1]) / 3
                fused[i, b] = f["task", i, b] if parts.present[b, 1:].any() else h
            un, cp, tf = model.denoiser.branches(h[None], 10, g_cp[b : b + 1, 1:], g_tf[b : b + 1, 1:], parts.present[b : b + 1, 1:])
            chain[b] = (un + 2 * (cp - un) + (tf - un))[0] if parts.present[b, 1:].any() else h
        evolution = [
            1 - torch.cosine_similarity(f["evo", i, b], items[b, -1][parts.mask[b, -1]].mean(0), dim=0)
            for i in range(2) for b in range(B) if parts.present[b, -1] and parts.present[b, :-1].any()
        ]  # fmt: skip
        apart = [(g_cp[b, k] @ g_tf[b, k]) ** 2 / D for b in range(B) for k in range(K + 1) if parts.present[b, k]]
        together = [(fused[0, b] - fused[1, b]).square().mean() for b in range(B) if parts.present[b, 1:].any()]
        click = [torch.nn.functional.binary_cross_entropy(model.click_logit(v, parts).sigmoid(), rows["click"]) for v in fused]
        number = model._prediction_loss(fused[0], parts, rows)["number"] / 2 + model._prediction_loss(fused[1], parts, rows)["number"] / 2
        of_chain = model._total(model._prediction_loss(chain, parts, rows))
    assert len(evolution) == 2 * (B - 3)  # rows 1, 2 and 3 have fewer than two sessions
    want = {"evolution": torch.stack(evolution).mean(), "disentangle": torch.stack(apart).mean(), "click": (click[0] + click[1]) / 2,
            "consistency": torch.stack(together).mean(), "number": number, "chain": of_chain}  # fmt: skip
    for name, value in want.items():
        assert float(found[name]) == pytest.approx(float(value), rel=2e-4), name
    total = (
        want["click"] + want["number"] + 0.1 * want["evolution"] + 0.01 * want["disentangle"] + 0.1 * want["consistency"] + want["chain"]
    )
    assert float(found["loss"]) == pytest.approx(float(total), rel=2e-4)


def test_the_number_loss_is_half_the_crps_of_its_quantiles():
    model, rows = ifusion(), batch()
    with torch.no_grad():
        parts = model.interests(rows, 3)
        r = model.number_ranks(parts.long, parts)
        assert bool((r.diff(dim=1) > 0).all())
        assert 0 < float(r.min()) < float(r.max()) < 1
        y, levels = rows["y"], model.levels
        want = 0.0
        for q, v in ((r, model.target(y)), (model.target.inverse(r) / model.scale, y / model.scale)):
            e = v[:, None] - q
            want += torch.maximum(levels * e, (levels - 1) * e).mean()
        assert float(model._prediction_loss(parts.long, parts, rows)["number"]) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("rows", [24, 200])
def test_who_listens_to_a_head_or_replaces_it_is_heard(rows):
    model, x, calls = ifusion(), batch(rows), []
    torch.manual_seed(5)
    want = model.loss(x)["number"]
    model.click_head.register_forward_hook(lambda *_: calls.append("click"))
    model.number_head = torch.nn.Sequential(*model.number_head, torch.nn.Identity())
    torch.manual_seed(5)
    found = model.loss(x)["number"]
    assert calls == ["click"]
    torch.testing.assert_close(found, want, rtol=1e-4, atol=0)


def test_evolution_does_not_train_what_it_compares_with():
    model, rows = ifusion(click_weight=0.0, number_weight=1.0), batch()
    parts = model.interests(rows, 4)
    items = padded_items(parts).detach().requires_grad_()
    x, t = torch.randn(2, 24, 8), torch.full((2, 24), 5)
    parts = parts._replace(items=items)
    guided = model.denoiser.conditioned(*parts.read_by(model.filters), parts.present, 10)
    model._evolution(x, t, guided, parts, LossNoise({}, x)).backward()
    assert items.grad[:, :-1].abs().sum() > 0
    assert items.grad[:, -1].abs().sum() == 0


def test_rows_without_sessions_or_history():
    model, rows = ifusion(), batch()
    x = {k: v for k, v in rows.items() if k not in ("y", "click")}
    with torch.no_grad():
        long = model.interests(x, 3).long
    fused = model.fuse(x, 2, seed=3, row_ids=rows["row"])
    assert fused.shape == (24, 2, 8)
    torch.testing.assert_close(fused[1], long[1].expand(2, -1), rtol=0, atol=1e-6)  # no sessions: h_L as it is
    for j in range(2):  # neither: the row's own noise
        torch.testing.assert_close(fused[2, j], rng.normal(3, rows["row"][2:3], 0, 8, j)[0], rtol=0, atol=0)
    assert not torch.equal(fused[0, 0], fused[0, 1])  # no history: another start each
    assert torch.equal(fused[4, 0], fused[4, 1])  # one step is without noise
    assert not torch.allclose(fused[4, 0], long[4])


@pytest.mark.parametrize("steps", [1, 4])
def test_fuse_is_the_chain_step_by_step(steps):
    model, rows = ifusion(steps=steps), batch()
    sampler = FusionSampler(model, max_rows=12)  # a few rows at once
    fused = sampler.fuse(rows, 3, seed=9, row_ids=rows["row"])
    with torch.no_grad():
        parts, g_cp, g_tf, mask = model.condition(rows)
        for j in range(3):
            h = torch.where(parts.has_long[:, None], parts.long, rng.normal(9, rows["row"], 0, 8, j))
            want = sampler.sample_stepwise(h, g_cp, g_tf, mask, seed=9, row_ids=rows["row"], draw_ids=torch.full((24,), j))
            torch.testing.assert_close(fused[:, j], want, rtol=1e-4, atol=1e-4)
    with use_backend("reference"):
        torch.testing.assert_close(fused, sampler.fuse(rows, 3, seed=9, row_ids=rows["row"]), rtol=1e-4, atol=1e-4)
    assert bool((fused[4, 0] == fused[4, 1]).all()) == (steps == 1)


def test_both_gammas_zero_is_the_unguided_prediction():
    model, rows = ifusion(), batch()
    with torch.no_grad():
        parts, g_cp, _, mask = model.condition(rows)
        un = model.denoiser(parts.long, 10, g_cp, mask, empty=torch.ones(24, dtype=torch.bool))
    fused = FusionSampler(model, gamma_cp=0.0, gamma_tf=0.0).fuse(rows)[:, 0]
    torch.testing.assert_close(fused[4:], un[4:], rtol=1e-4, atol=1e-5)
    none = ifusion(gamma_cp=0.0, gamma_tf=0.0)
    assert bool(none.loss(rows)["loss"].isfinite())


@pytest.mark.parametrize("make", [lambda: ifusion(steps=3), lambda: ifusion(), lambda: PooledFusion(**POOLED, pooling="attention")])
def test_draws_belong_to_their_rows(make):
    model, rows = make(), batch()
    if not model.prepared:
        model.prepare(rows)
    whole = model.sample(rows, 6, seed=2, row_ids=rows["row"])
    assert whole.shape == (24, 6)
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 30
    for part in (torch.arange(5, 14), torch.tensor([3, 0])):
        some = model.sample({k: v[part] for k, v in rows.items()}, 6, seed=2, row_ids=rows["row"][part])
        torch.testing.assert_close(some, whole[part], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(model.sample(rows, 3, seed=2, row_ids=rows["row"]), whole[:, :3], rtol=1e-4, atol=1e-3)
    low, high = model.interval(rows, 0.8, n=64, row_ids=rows["row"]).unbind(1)
    middle = model.predict(rows, n=64, row_ids=rows["row"])
    assert bool(((low <= middle) & (middle <= high)).all())
    p = model.predict_click(rows, n=2, row_ids=rows["row"])
    assert p.shape == (24,)
    assert bool(((p > 0) & (p < 1)).all())
    nothing = {k: v[:0] for k, v in rows.items()}
    assert model.sample(nothing, 4).shape == (0, 4)
    assert model.fuse(nothing, 2).shape == (0, 2, 8)
    assert model.predict_click(nothing).shape == (0,)


@pytest.mark.parametrize("B", [4, 24, 700])
@pytest.mark.parametrize("make", [lambda: ifusion(latent=64), lambda: PooledFusion(**POOLED | {"latent": 64}, pooling="attention")])
def test_the_items_of_other_rows_do_not_matter(make, B):
    """Bit by bit, though only items that exist are multiplied: how many those are depends on all rows."""
    model, rows, others = make().eval(), batch(B), batch(B, seed=1)
    rows["feedback"] = rows["feedback"].nan_to_num(0.5)
    rows["sessions"][0] = torch.tensor([0, 0, 0, 5])[:, None] * torch.tensor([1, 0, 0])  # one item: alone, a product of one row
    rows["sessions"][3] = 7
    some = torch.arange(B) % 4 == 0
    before = model.fuse(rows, row_ids=torch.arange(B))
    for share in (1, 0):
        changed = {
            k: torch.where(some.view(-1, *[1] * (v.dim() - 1)), v, others[k] * share) for k, v in rows.items() if k in ("long", "sessions")
        }
        got = model.fuse(rows | changed, row_ids=torch.arange(B))
        assert torch.equal(got[some], before[some])
        assert not torch.equal(got[~some], before[~some])


def test_a_history_that_follows_itself_is_encoded_once(monkeypatch):
    model, rows, tokens = ifusion(), batch(), []
    packed = model.long_encoder.packed
    monkeypatch.setattr(model.long_encoder, "packed", lambda x, offsets: tokens.append(len(x)) or packed(x, offsets))
    items = int((rows["long"] > 0).sum())
    for repeats in (torch.full((24,), 5), torch.arange(24) % 3):
        many = {k: v.repeat_interleave(repeats, 0) for k, v in rows.items()}
        tokens.clear()
        got = model.fuse(many, row_ids=many["row"])
        assert tokens == [int((rows["long"][repeats > 0] > 0).sum())]
        torch.testing.assert_close(got, model.fuse(rows, row_ids=rows["row"]).repeat_interleave(repeats, 0))
    model.train()
    tokens.clear()
    model.loss({k: v.repeat_interleave(2, 0) for k, v in rows.items()})
    assert tokens == [2 * items]


@pytest.mark.parametrize("steps", [1, 4])
def test_draws_that_cannot_differ_are_made_once(steps):
    """Those of a row with a history, in one step. A row's own have the same bits whatever the others share."""
    model, rows = ifusion(steps=steps), batch(300)
    ids, history = torch.arange(300), (rows["long"] > 0).any(1)
    with torch.no_grad():
        made = model.sampler()._fused(model.condition(rows), 3, 7, ids)
    once = int(history.sum()) if steps == 1 else 0
    assert 0 < int(history.sum()) < 300
    assert len(made.vectors) == once + 3 * (300 - once)
    fused, draws, click = (f(rows, n=3, seed=7, row_ids=ids) for f in (model.fuse, model.sample, model.predict_click))
    with use_backend("reference"):  # makes all
        assert len(model.sampler()._fused(model.condition(rows), 3, 7, ids).vectors) == 900
        torch.testing.assert_close(fused, model.fuse(rows, 3, seed=7, row_ids=ids), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(draws, model.sample(rows, 3, seed=7, row_ids=ids), rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(click, model.predict_click(rows, 3, seed=7, row_ids=ids), rtol=1e-4, atol=1e-5)
    some = torch.arange(300) % 3 == 0
    fewer = rows | {"long": torch.where(some[:, None], rows["long"], 0)}
    assert torch.equal(model.fuse(fewer, 3, seed=7, row_ids=ids)[some], fused[some])
    assert torch.equal(model.sample(fewer, 3, seed=7, row_ids=ids)[some], draws[some])


@pytest.mark.parametrize("make", [ifusion, lambda: PooledFusion(**POOLED)])
def test_quantiles_are_those_of_the_draws(make):
    """Read off the ranks: the map of targets rises."""
    model, rows = make(), batch()
    model.prepare(rows)
    draws = model.sample(rows, 31, seed=2, row_ids=rows["row"]).sort(dim=1).values
    found = model.sampler().quantiles(rows, [0.25, 0.5, 0.75], n=31, seed=2, row_ids=rows["row"])
    torch.testing.assert_close(found, draws[:, [7, 15, 23]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.predict(rows, n=31, seed=2, row_ids=rows["row"]), found[:, 1])


def test_steps_are_a_number_or_timesteps():
    model, rows = ifusion(), batch()
    three = FusionSampler(model, steps=3)
    assert three.steps == [10, 7, 3]
    for steps in ([10, 7, 3], torch.tensor([10, 7, 3]), np.array([10, 7, 3])):
        sampler = FusionSampler(model, steps=steps)
        assert torch.equal(sampler.fuse(rows, 2, row_ids=rows["row"]), three.fuse(rows, 2, row_ids=rows["row"]))
    assert torch.equal(ifusion(steps=[10, 7, 3]).sample(rows, 2), ifusion(steps=3).sample(rows, 2))
    with pytest.raises(ValueError, match="steps: expected strictly descending"):
        ifusion(steps=[3, 7])


def test_draws_follow_the_heads_quantiles():
    model, rows = ifusion(), batch(4)
    with torch.no_grad():
        condition = model.condition(rows)
        fused = model.sampler()._fused(condition, 1, 0, rows["row"]).vectors
        seconds = model.target.inverse(model.number_ranks(fused, condition.parts))
    draws = FusionSampler(model, vectors=1).sample(rows, 4000, row_ids=rows["row"])
    got = draws.quantile(model.levels, dim=1).T
    assert float((got - seconds)[[1, 3]].abs().max()) < 1.5  # of 30, rows whose start is not noise


@pytest.mark.parametrize("make", [ifusion, lambda: PooledFusion(**POOLED), lambda: PooledFusion(**POOLED, pooling="attention")])
def test_what_is_masked_does_not_matter(make):
    """Padding's feedback, and sessions that are not there, NaN included."""
    model, rows = make().eval(), batch()
    other = dict(rows, feedback=torch.where(rows["feedback"].isnan(), 1e9, rows["feedback"]))
    wider = {**rows, "sessions": torch.cat((torch.zeros(24, 2, 3, dtype=torch.int32), rows["sessions"]), 1),
             "feedback": torch.cat((torch.full((24, 2, 3, 3), torch.nan), rows["feedback"]), 1)}  # fmt: skip
    for x in (other, wider):
        assert torch.equal(model.fuse(x, row_ids=rows["row"]), model.fuse(rows, row_ids=rows["row"]))
    model.train()
    model.loss(rows)["loss"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


ABLATIONS = [
    {"guidance": "cfg"}, {"parallel": True}, {"consistency_weight": 0.0}, {"schedule": "linear"}, {"sessions": 1}, {"sessions": 2},
    {"steps": 3}, {"disentangle": "cosine"}, {"disentangle": "gradient"}, {"feedback_width": 0}, {"context": False}, {"drop_cp": 1.0},
    {"click_weight": 0.0}, {"gamma_tf": 0.0}, {"parallel": True, "steps": 3}, IFusion.paper_loss(), IFusion.chain_loss(),
]  # fmt: skip


@pytest.mark.parametrize("options", ABLATIONS, ids=lambda o: "-".join(map(str, o)))
def test_every_ablation_trains_and_predicts(options):
    model, rows = ifusion(**options), batch()
    model.train()
    found = model.loss(rows)
    found["loss"].backward()
    assert bool(found["loss"].isfinite())
    assert model.denoiser.network.output.weight.grad.abs().sum() > 0
    assert bool(model.sample(rows, 3, row_ids=rows["row"]).isfinite().all())
    assert bool(model.predict_click(rows, row_ids=rows["row"]).isfinite().all())
    if options.get("guidance") == "cfg":
        assert model.gammas == (2.0, 0.0)
        assert float(found["disentangle"]) == 0


def test_all_that_is_trained_gets_a_gradient():
    model, rows = ifusion(), batch()
    model.train()
    model.loss(rows)["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


def test_a_row_without_a_session_has_no_consistency_or_evolution():
    model = ifusion()
    rows = {k: v[[1, 2, 1, 2]] for k, v in batch().items()}
    found = model.loss(rows)
    assert float(found["consistency"]) == float(found["evolution"]) == float(found["disentangle"]) == 0
    assert bool(found["loss"].isfinite())


@pytest.mark.slow
def test_training_learns_what_sessions_say():
    """Clicked iff the last session was: with the sessions it can be known, without it cannot."""
    rows = batch(256, seed=3)
    rows["sessions"][:, -1, 0] = 1
    rows["feedback"] = rows["feedback"].nan_to_num()
    rows["feedback"][:, -1, :, 0] = rows["click"][:, None]
    torch.manual_seed(0)
    model = IFusion(**{**SIZES, "number_weight": 0.0, "context": False, "dropout": 0.0})
    fit(model, rows, epochs=12, batch_size=64, lr=1e-2, progress=False)
    assert ops.auc(rows["click"], model.predict_click(rows, row_ids=rows["row"])) > 0.9


def test_before_training_a_chain_is_a_sum_over_sessions():
    torch.manual_seed(0)
    model = IFusion(**SIZES, dropout=0.0)
    net, x, g = model.denoiser.network, torch.randn(5, 8), torch.randn(5, 3, 8)
    with torch.no_grad():
        want = x + (g @ net.condition.weight[:8].T).sum(1)
        torch.testing.assert_close(model.denoiser(x, 3, g), want, rtol=1e-4, atol=1e-5)


def test_state_goes_through_a_file_and_scores_stay():
    model, rows = ifusion(), batch()
    other = IFusion(**SIZES)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval().sample(rows, 4, row_ids=rows["row"]), model.sample(rows, 4, row_ids=rows["row"]))


def test_sequences_ignore_padding_and_survive_being_empty():
    torch.manual_seed(0)
    encoder = SequenceEncoder(8, 4, layers=2, heads=2).eval()
    x, mask = torch.randn(3, 4, 8), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    with torch.no_grad():
        out = encoder(x, mask)
        torch.testing.assert_close(out[:1, :2], encoder(x[:1, :2], mask[:1, :2]))
        assert bool(out.isfinite().all())


@pytest.mark.native
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sequences_of_a_mask_that_cannot_be_read_have_the_same_values(monkeypatch, dropout):
    torch.manual_seed(0)
    encoder, g = SequenceEncoder(8, 4, layers=2, heads=2, dropout=dropout).double(), torch.randn(30, 6, 8, dtype=torch.float64)
    mask = torch.rand(30, 6) < torch.rand(30, 1)
    x = torch.where(mask[..., None], torch.randn(30, 6, 8, dtype=torch.float64), 1.0)

    def found():
        torch.manual_seed(1)
        inner = x.clone().requires_grad_()
        out = torch.where(mask[..., None], encoder(inner, mask), 0.0)
        return out, *torch.autograd.grad(out, (inner, *encoder.parameters()), g)

    packed = found()
    monkeypatch.setattr("ordkernels.models._interest.can_read_values", lambda t: False)
    for a, b in zip(packed, found(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_errors_name_the_key_or_the_argument():
    model, rows = ifusion(), batch()
    for change, match in (
        ({"long": rows["long"] + ITEMS}, r"long: expected item \+ 1 in \[1, 12\] or 0"),
        ({"long": rows["long"][:5]}, r"long: expected \[B, M\] with B = 24"),
        ({"sessions": rows["sessions"][:, 0]}, r"sessions: expected \[B, P, S\]"),
        ({"feedback": rows["feedback"][..., :2]}, "feedback: expected shape"),
        ({"click": rows["click"] + 2}, "click: expected 0 and 1"),
        ({"y": -rows["y"]}, "y: expected finite values"),
    ):
        with pytest.raises(ValueError, match=match):
            model.loss({**rows, **change})
    with pytest.raises(TypeError, match="sessions: expected integers"):
        model.loss({**rows, "sessions": rows["sessions"].float()})
    with pytest.raises(ValueError, match="expected the key 'sessions'"):
        model.sample({k: v for k, v in rows.items() if k != "sessions"}, 2)
    for options, match in (
        ({"guidance": "x"}, "guidance"), ({"steps": 11}, r"steps: expected a number in \[1, 10\]"), ({"drop_tf": 2.0}, "drop_tf"),
        ({"gamma_cp": -1.0}, "gamma_cp"), ({"disentangle": "x"}, "disentangle"), ({"chain_weight": -1.0}, "chain_weight"),
        ({"click_weight": 0.0, "number_weight": 0.0}, "one of them above 0"), ({"attention_heads": 3}, "heads"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            IFusion(**{**SIZES, **options})
    with pytest.raises(ValueError, match="pooling"):
        PooledFusion(**POOLED, pooling="max")
    for call, match in ((lambda: FusionSampler(model, steps=11), "steps"), (lambda: FusionSampler(model, vectors=0), "vectors"),
                        (lambda: model.fuse(rows, 0), "n: expected"), (lambda: model.predict_click(rows, 0), "n: expected")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            call()
