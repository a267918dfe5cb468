"""Numbers, choices and flags as people hold them: NumPy's scalars, arrays and tensors without dimensions, Arrow's scalars."""

import numpy as np
import pytest
import torch
from array_kinds import flat, same

from ordkernels import diagnostics, metrics, nn, ops, quantiles, rng, schedules, scores
from ordkernels.models import DiffoR
from ordkernels.samplers import DiffoRSampler
from ordkernels.schedules import NoiseSchedule
from ordkernels.scores.grid import GridXAUC
from ordkernels.scores.streaming import Errors, SampleScores
from ordkernels.vocabulary import ValueVocabulary


def arrow(x):
    return pytest.importorskip("pyarrow").scalar(x)


def updated(m, *columns):
    m.update(*columns)
    return m.compute()


torch.manual_seed(0)
X, C = torch.rand(3, 2), torch.rand(3, 2)
S, Y = torch.rand(3, 4), torch.tensor([1.0, 5.0, 2.0])
SCHEDULE, DENOISER = NoiseSchedule.linear(20), nn.MLPDenoiser(2, 2, hidden=8, time_width=4)
DECODER, VALUES, MEMORY = (
    nn.ValueDecoder(8, d_model=8, heads=2, ffn=8, layers=1),
    torch.tensor([0.0, 0, 0, 5, 4, 3, 2, 1]),
    torch.rand(3, 8),
)
LOGITS = torch.ones(2, 8) * torch.arange(8.0)
MODEL = DiffoR(dense_width=2)


def chain(**options):
    return ops.denoise_chain(X, C, DENOISER, SCHEDULE, aligned=[10, 5], **{"steps": 5, **options})


def decode(**options):
    return ops.value_decode(MEMORY, DECODER, VALUES, **{"max_tokens": 5, **options})


def step(**options):
    return ops.reverse_step(X, C, 0.5, 0.75, **options)


def guided(**options):
    return ops.guided_posterior_step(X, C, C, C, 0.5, 0.75, **{"gamma_cp": 2.0, "gamma_tf": 1.0, **options})


SIZES = {  # argument, a value, calls of it
    "bins": (8, lambda v: scores.decile_table([1, 2, 3], [3, 2, 1], bins=v), lambda v: GridXAUC(v).update([1, 2], [2, 1]).result(),
             lambda v: metrics.equal_mass_edges([1, 2, 3, 4], v), lambda v: metrics.XAUC("binned", bins=v).bins),
    "num_threads": (1, lambda v: scores.mae([1, 2], [2, 1], num_threads=v)),
    "min_events": (1, lambda v: quantiles.history_quantiles([1.0, 2.0], [0, 0], [0, 1], [0.5], v)),
    "max_tokens": (9, lambda v: ValueVocabulary([1, 5]).encode([7], v), lambda v: decode(max_tokens=v)),
    "largest": (60, lambda v: ValueVocabulary.manual(v).values, lambda v: ValueVocabulary.binary(v).values),
    "seed": (7, lambda v: rng.normal(v, [1, 2], 0, 3), lambda v: schedules.mixture_timesteps(3, 20, [10, 5], 0.5, v),
             lambda v: chain(eta=1.0, seed=v), lambda v: decode(temperature=1.0, seed=v), lambda v: step(eta=1.0, seed=v),
             lambda v: guided(seed=v)),
    "step": (7, lambda v: rng.normal(0, [1, 2], v, 3), lambda v: schedules.mixture_timesteps(3, 20, [10, 5], 0.5, 0, v),
             lambda v: step(eta=1.0, seed=0, step=v)),
    "width": (3, lambda v: rng.normal(0, [1, 2], 0, v)),
    "rows": (2, lambda v: rng.uniform(0, None, 0, 3, rows=v)),
    "T": (20, lambda v: NoiseSchedule.linear(v).alpha_bar, lambda v: NoiseSchedule.cosine(v).alpha_bar,
          lambda v: schedules.aligned_timesteps(4, v), lambda v: schedules.mixture_timesteps(3, v, [10, 5], 0.5, 0)),
    "K": (4, lambda v: schedules.aligned_timesteps(v, 20)),
    "B": (3, lambda v: schedules.mixture_timesteps(v, 20, [10, 5], 0.5, 0)),
    "window": (4, lambda v: decode(window=v), lambda v: ops.embedding_mixup(LOGITS, torch.eye(8), window=v),
               lambda v: ops.windowed_value(LOGITS, VALUES, window=v)),
    "first_value_token": (3, lambda v: ops.embedding_mixup(LOGITS, torch.eye(8), window=4, first_value_token=v)),
    "n": (4, lambda v: DiffoRSampler(MODEL, steps=20).sample({"dense": X}, v)),
    "max_rows": (4, lambda v: DiffoRSampler(MODEL, max_rows=v).max_rows),
}  # fmt: skip
REALS = {
    "theta": (1.0, lambda v: scores.cumulative_score([1, 2], [2, 1], v), lambda v: updated(metrics.CumulativeScore(v), [1, 2], [2, 1])),
    "thetas": (1.0, lambda v: Errors(thetas=(v,)).update([1, 2], [2, 1]).result()),
    "base": (2.0, lambda v: scores.histogram_jsd([1, 2], [2, 2], [0, 0], edges=[0, 1.5, 3], base=v), lambda v: scores.relaimpr(0.75, v),
             lambda v: updated(metrics.PDF(edges=[0, 1.5, 3], base=v), [1, 2], [2, 2], [0, 0]), lambda v: metrics.RelaImpr(v).base),
    "measured": (0.75, lambda v: scores.relaimpr(v, 0.25)),
    "tolerance": (0.5, lambda v: ValueVocabulary([1, 5]).encode([7], 9, v)),
    "unit": (0.5, lambda v: ValueVocabulary([1, 5], unit=v).encode([7], 30)),
    "q_start": (0.5, lambda v: ValueVocabulary.fit([1, 5, 9], q_start=v, q_end=0.25).values),
    "alpha": (0.5, lambda v: ValueVocabulary.fit([1, 5, 9], q_end=0.25, alpha=v).values),
    "epsilon": (0.5, lambda v: ValueVocabulary.fit([1, 5, 9], q_end=0.25, epsilon=v).values),
    "beta_start": (0.25, lambda v: NoiseSchedule.linear(20, v, 0.5).alpha_bar),
    "beta_end": (0.25, lambda v: NoiseSchedule.linear(20, 1e-4, v).alpha_bar),
    "s": (0.25, lambda v: NoiseSchedule.cosine(20, v).alpha_bar),
    "beta_max": (0.25, lambda v: NoiseSchedule.cosine(20, beta_max=v).alpha_bar),
    "rho": (0.25, lambda v: schedules.mixture_timesteps(3, 20, [10, 5], v, 0)),
    "lam": (0.25, lambda v: ops.wasserstein_quantile_loss(S, S + 1, S + 2, lam=v)),
    "alpha_bar": (0.5, lambda v: ops.q_sample(X, C, v), lambda v: ops.predict_x0(X, C, v)),
    "alpha_bar_t": (0.5, lambda v: ops.reverse_step(X, C, v, 0.75)),
    "t": (0.5, lambda v: ops.flow_sample(X, C, v), lambda v: ops.flow_step(X, C, v, 0.25)),
    "clip": (0.5, lambda v: ops.predict_x0(X, C, 0.5, clip=v), lambda v: step(clip=v), lambda v: chain(clip=v)),
    "eta": (0.5, lambda v: step(eta=v, seed=0), lambda v: chain(eta=v), lambda v: DiffoRSampler(MODEL, eta=v).eta),
    "gamma_cp": (0.5, lambda v: guided(gamma_cp=v)),
    "temperature": (0.5, lambda v: decode(temperature=v)),
    "level": (0.5, lambda v: ops.interval_score(Y, Y + 1, Y, level=v), lambda v: DiffoRSampler(MODEL).interval({"dense": X}, v, n=4)),
    "ridge": (0.5, lambda v: diagnostics.min_variance_weights(S, ridge=v)),
    "loss_t": (0.5, lambda v: diagnostics.ordinal_error_bound(v, 0.5, 0.5)),
    "gap": (0.5, lambda v: diagnostics.ordinal_error_bound(0.5, 0.5, v)),
}  # fmt: skip
CHOICES = {
    "ties": ("strict", lambda v: scores.xauc([1, 2], [1, 1], ties=v), lambda v: updated(metrics.XAUC(ties=v), [1, 1], [1, 2])),
    "average": ("pair", lambda v: scores.xauc([1, 2], [1, 1], group=[0, 0], average=v)),
    "variant": ("a", lambda v: scores.kendall_tau([1, 2], [1, 1], variant=v)),
    "mode": ("binned", lambda v: metrics.XAUC(v, bins=8).mode),
    "prediction": ("v", lambda v: ops.predict_x0(X, C, 0.5, prediction=v), lambda v: step(prediction=v), lambda v: chain(prediction=v)),
    "variance": ("beta", lambda v: guided(variance=v, seed=0)),
    "mixup": ("full", lambda v: decode(mixup=v)),
    "readout": ("windowed", lambda v: decode(readout=v)),
    "spacing": ("log", lambda v: schedules.aligned_timesteps(4, 20, v)),
    "schedule": ("cosine", lambda v: schedules.noise_schedule(v, 20).alpha_bar),
    "statistic": ("mean", lambda v: DiffoRSampler(MODEL).predict({"dense": X}, 4, statistic=v)),
    "constrained": ("smooth", lambda v: ops.planar_flow(X, C[:, None], C[:, None], C[:, :1], constrained=v)),
}
FLAGS = {
    "fair": (True, lambda v: ops.crps(S, Y, fair=v), lambda v: SampleScores(fair=v).update(S, Y).result()),
    "rescale": (False, lambda v: NoiseSchedule.linear(20, rescale=v).alpha_bar),
    "monotone": (True, lambda v: decode(monotone=v)),
    "use_clipped_model_output": (True, lambda v: step(clip=0.1, use_clipped_model_output=v)),
    "antithetic": (False, lambda v: DiffoRSampler(MODEL, antithetic=v).antithetic),
    "constrained": (False, lambda v: ops.planar_flow(X, C[:, None], C[:, None], C[:, :1], constrained=v),
                    lambda v: nn.PlanarFlow(3, constrained=v).constrained),
}  # fmt: skip
KINDS = {
    "integers": [(SIZES, f) for f in (np.int32, np.int64, np.uint64, np.array, torch.tensor, arrow)],
    "reals": [
        (REALS, f)
        for f in (np.float16, np.float32, np.float64, np.longdouble, np.array, lambda v: np.array(v, ">f4"), torch.tensor, arrow)
    ],
    "choices": [(CHOICES, f) for f in (np.str_, np.array, arrow)],
    "flags": [(FLAGS, f) for f in (np.bool_, np.array, torch.tensor, arrow)],
}  # fmt: skip
NO_SCALARS = [
    [1.5],
    np.array([0.5, 0.5]),
    np.array(["half", "v"]),
    np.ma.masked,
    np.complex64(1),
    1j,
    np.timedelta64(3, "s"),
    b"half",
    None,
]
NO_NUMBERS = ["5", np.str_("5"), np.array("5"), True, np.True_, np.array(True), torch.tensor(True)]
REFUSED = {
    "integers": (SIZES, [*NO_SCALARS, *NO_NUMBERS, 2.5, np.float32(2.5), np.array(2.5), torch.tensor(2.5)]),
    "reals": (REALS, NO_SCALARS + NO_NUMBERS),
    "choices": (CHOICES, [*NO_SCALARS, "nonsense", np.str_("nonsense"), 1, np.array(1)]),
    "flags": (FLAGS, [*NO_SCALARS, "False", np.str_("True"), 0, 1, np.int64(1), 1.0, torch.tensor(1)]),
}
TAKEN = {  # beside what is a number: labels, None for a default, tensors of a row each
    "largest": (list, np.ndarray, float, np.floating), "num_threads": (type(None),), "rows": (type(None),), "window": (type(None),),
    "unit": (type(None),), "seed": (type(None),), "prediction": (type(None),), "loss_t": (torch.Tensor,), "gap": (torch.Tensor,),
    "clip": (type(None),), "eta": (type(None),), "mixup": (type(None),), "monotone": (type(None),),
}  # fmt: skip


@pytest.mark.parametrize(("table", "make"), [case for cases in KINDS.values() for case in cases])
def test_scalars_of_every_kind_count_as_what_they_hold(table, make):
    for name, (value, *calls) in table.items():
        for call in calls:
            torch.manual_seed(0)
            found = flat(call(make(value)))
            torch.manual_seed(0)
            assert same(found, flat(call(value))), name


@pytest.mark.filterwarnings("ignore:Warning. converting a masked element")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_none_is_refused_by_name(kind):
    table, refused = REFUSED[kind]
    for name, (_, *calls) in table.items():
        for call in calls:
            for x in refused:
                if not isinstance(x, TAKEN.get(name, ())):
                    with pytest.raises((TypeError, ValueError), match=r"^\w+(, \w+)*: expected "):
                        call(x)


@pytest.mark.parametrize(
    "steps", [[10.0, 5.0], [10.5, 5], ["10", "5"], "10", [True, 5], np.array([10.0, 5.0]), torch.tensor([10.0, 5.0]), 5.5, np.float64(5)]
)
def test_timesteps_that_are_no_integers_are_refused_not_cut(steps):
    for name, call in (
        ("aligned", lambda v: schedules.check_aligned(v, 20)),
        ("aligned", lambda v: schedules.mixture_timesteps(3, 20, v, 0.5, 0)),
        ("aligned", lambda v: ops.denoise_chain(X, C, DENOISER, SCHEDULE, steps=20, aligned=v)),
        ("steps", lambda v: chain(steps=v)),
        ("steps", lambda v: SCHEDULE.check_steps(v)),
        ("steps", lambda v: DiffoRSampler(MODEL, steps=v)),
    ):
        with pytest.raises(TypeError, match=f"^{name}: expected "):
            call(steps)


@pytest.mark.parametrize(
    "make",
    [list, tuple, np.array, lambda x: np.array(x, ">i4"), torch.tensor, lambda x: torch.tensor(x).int(), lambda x: list(np.array(x))],
)
def test_timesteps_of_every_kind_are_taken(make):
    assert schedules.check_aligned(make([10, 5]), 20) == [10, 5] == SCHEDULE.check_steps(make([10, 5]))
    assert same(flat(chain(steps=make([12, 10, 5]))), flat(chain(steps=[12, 10, 5])))
