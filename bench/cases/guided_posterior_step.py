"""One guided step of the posterior, mean and sample, against eager torch and torch.compile."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ordkernels import ops, rng
from ordkernels.schedules import NoiseSchedule

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, with_backward, without_grad

SHAPES: dict[tuple[str, Size], tuple[tuple[int, int], ...]] = {  # B, D
    ("cpu", "tiny"): ((5, 3),),
    ("cpu", "quick"): ((1024, 64),),
    ("cpu", "full"): ((1024, 64), (65536, 64)),
    ("cuda", "tiny"): ((5, 3),),
    ("cuda", "quick"): ((65536, 64),),
    ("cuda", "full"): ((1024, 64), (1 << 20, 64)),
}
T, STEP = 50, 20  # from t = 20 to t = 19
GAMMA_CP, GAMMA_TF = 2.0, 1.0
SEED = 7


class Setup:
    """What depends on the timestep alone is a number before timing starts, for every baseline."""

    def __init__(self, B: int, D: int, device: str) -> None:
        self.args = [randn(B, D, device=device, seed=i) for i in range(4)]  # x_t, f_un, f_cp, f_tf
        ab = NoiseSchedule.cosine(T).exact
        self.t, self.s, self.ids = ab[STEP], ab[STEP - 1], torch.arange(B, device=device)
        ratio, rest = (self.s - self.t) / self.s, (1 - self.s) / (1 - self.t)
        self.d0, self.d1 = self.s**0.5 * ratio / (1 - self.t), (self.t / self.s) ** 0.5 * rest  # mean = d0 f + d1 x
        self.sigma = (ratio * rest) ** 0.5

    def ours(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        return ops.guided_posterior_step(*args, self.t, self.s, gamma_cp=GAMMA_CP, gamma_tf=GAMMA_TF)

    def ours_noisy(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        noise = dict(seed=SEED, row_ids=self.ids, step=STEP)
        return ops.guided_posterior_step(*args, self.t, self.s, gamma_cp=GAMMA_CP, gamma_tf=GAMMA_TF, **noise)  # type: ignore[arg-type]

    def eager(self, x: Tensor, un: Tensor, cp: Tensor, tf: Tensor) -> tuple[Tensor, Tensor]:
        f = torch.add(torch.add((1 - GAMMA_CP - GAMMA_TF) * un, cp, alpha=GAMMA_CP), tf, alpha=GAMMA_TF)
        return torch.add(self.d0 * f, x, alpha=self.d1), f

    def eager_noisy(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        mean, f = self.eager(*args)
        return torch.add(mean, torch.randn_like(mean), alpha=self.sigma), f

    def expected(self, noisy: bool) -> tuple[Tensor, Tensor]:
        x_s, f = self.eager(*(a.double() for a in self.args))
        return (x_s + self.sigma * rng.normal(SEED, self.ids, STEP, x_s.shape[1]).double() if noisy else x_s), f

    def same_distribution(self, out: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The expected result if f equals it and the noise in x_s is standard normal in mean and variance; else nothing."""
        (x_s, f), mean, n = out, self.expected(False), out[0].numel()
        xi = (x_s.double() - mean[0]) / self.sigma
        right = float((f.double() - mean[1]).abs().max()) < 1e-4 * float(mean[1].abs().max())
        fits = abs(float(xi.mean())) < 6 * n**-0.5 and abs(float(xi.square().mean()) - 1) < 6 * (2 / n) ** 0.5
        return self.expected(True) if right and fits else ()


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, D in SHAPES[device, size]:
        yield _step(B, D, False, device)
        yield _step(B, D, True, device)
        yield _backward(B, D, device)


def _step(B: int, D: int, noisy: bool, device: str) -> Case:
    setup = Setup(B, D, device)
    ours, eager = (setup.ours_noisy, setup.eager_noisy) if noisy else (setup.ours, setup.eager)
    runs: dict[str, Run] = {
        OURS: without_grad(ours, setup.args),
        "eager": without_grad(eager, setup.args),
        "compile": without_grad(compiled(eager), setup.args),
    }
    return Case(
        "guided_posterior_step", f"{'sample' if noisy else 'mean'} B={B} D={D}", runs, lambda: setup.expected(noisy), 1e-5,
        bytes=24 * B * D, flops=8.0 * B * D, device=device, targets=_targets(B, device),
        outputs={name: setup.same_distribution for name in runs if noisy and name != OURS},
    )  # fmt: skip


def _backward(B: int, D: int, device: str) -> Case:
    setup = Setup(B, D, device)
    grads = [randn(B, D, device=device, seed=i) for i in (5, 6)]
    runs = {
        OURS: with_backward(setup.ours, setup.args, grads),
        "eager": with_backward(setup.eager, setup.args, grads),
        "compile": with_backward(compiled(setup.eager), setup.args, grads),
    }
    doubles = with_backward(setup.eager, [a.double() for a in setup.args], [g.double() for g in grads])
    return Case(
        "guided_posterior_step", f"mean, forward + backward B={B} D={D}", runs, doubles, 1e-5,
        bytes=48 * B * D, flops=16.0 * B * D, device=device, targets=_targets(B, device),
    )  # fmt: skip


def _targets(B: int, device: str) -> list[Target]:
    return [Target("at least 85 % of the copy bandwidth", "limit", 0.85)] if device == "cuda" and B >= 1 << 20 else []


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))

    def step(B: int) -> Run:
        setup = Setup(B, 64, device)
        return without_grad(setup.ours_noisy, setup.args)

    yield Scaling("guided_posterior_step", "sample, D=64", "B", rows, step, float)
