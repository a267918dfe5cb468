"""One reverse step against eager torch, torch.compile and diffusers' schedulers."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import ordkernels
from ordkernels import ops
from ordkernels.schedules import NoiseSchedule

from . import OURS, Case, Run, Scaling, Size, Target, compiled, optional, randn, without_grad

SHAPES: dict[tuple[str, Size], tuple[tuple[int, int], ...]] = {  # B, D
    ("cpu", "tiny"): ((5, 3),),
    ("cpu", "quick"): ((1024, 64),),
    ("cpu", "full"): ((1024, 64), (65536, 64)),
    ("cuda", "tiny"): ((5, 3),),
    ("cuda", "quick"): ((65536, 64),),
    ("cuda", "full"): ((1024, 64), (1 << 20, 64)),
}
T, STEP = 1000, 500  # from t = 500 to t = 499
SEED = 7


class Setup:
    """A step of eps prediction; what depends on the timestep alone is a number before timing starts, for every baseline."""

    def __init__(self, B: int, D: int, eta: float, device: str) -> None:
        self.x, self.output = randn(B, D, device=device, seed=1), randn(B, D, device=device, seed=2)
        ab = NoiseSchedule.linear(T, rescale=False).exact
        self.t, self.s, self.eta, self.ids = ab[STEP], ab[STEP - 1], eta, torch.arange(B, device=device)
        t, s = self.t, self.s
        variance = eta**2 * (1 - s) / (1 - t) * (1 - t / s)
        self.c0, self.c1 = t**-0.5, -(((1 - t) / t) ** 0.5)  # x0 = c0 x + c1 output
        self.d0, self.d2, self.sigma = s**0.5, (1 - s - variance) ** 0.5, variance**0.5  # x_s = d0 x0 + d2 output + sigma noise

    def ours(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        if not self.eta:
            return ops.reverse_step(x, output, self.t, self.s)
        return ops.reverse_step(x, output, self.t, self.s, eta=self.eta, seed=SEED, row_ids=self.ids, step=STEP)

    def eager(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        x0 = torch.add(self.c0 * x, output, alpha=self.c1)
        x_s = torch.add(self.d0 * x0, output, alpha=self.d2)
        return (torch.add(x_s, torch.randn_like(x), alpha=self.sigma) if self.eta else x_s), x0

    def expected(self) -> tuple[Tensor, Tensor]:
        with ordkernels.use_backend("reference"):
            return self.ours(self.x.double(), self.output.double())

    def same_distribution(self, out: Any) -> tuple[Any, ...]:
        """The expected result if x0 equals it and the noise in x_s is standard normal in mean and variance; else nothing."""
        x_s, x0 = out
        expected = self.expected()
        mean = self.d0 * expected[1] + self.d2 * self.output.double()
        xi, n = (x_s.double() - mean) / self.sigma, x_s.numel()
        right = float((x0.double() - expected[1]).abs().max()) < 1e-4 * float(expected[1].abs().max())
        return expected if right and abs(float(xi.mean())) < 6 * n**-0.5 and abs(float(xi.square().mean()) - 1) < 6 * (2 / n) ** 0.5 else ()


def cases(device: str, size: Size) -> Iterator[Case]:
    for B, D in SHAPES[device, size]:
        for eta in (0.0, 1.0):
            yield _step(B, D, eta, device)


def _step(B: int, D: int, eta: float, device: str) -> Case:
    setup = Setup(B, D, eta, device)
    args = [setup.x, setup.output]
    missing: dict[str, str] = {}
    runs: dict[str, Run] = {
        OURS: without_grad(setup.ours, args),
        "eager": without_grad(setup.eager, args),
        "compile": without_grad(compiled(setup.eager), args),
    }
    diffusers = optional("diffusers", missing, "diffusers")
    if diffusers is not None:
        for name, step in _schedulers(diffusers, eta, device).items():
            runs[name] = without_grad(step, args)
    own_noise = [name for name in runs if eta and name != OURS]
    targets = [Target("at least 5x a step of diffusers", name, 5.0) for name in runs if name.startswith("diffusers")]
    if device == "cuda":
        targets = [Target("at least 85 % of the copy bandwidth", "limit", 0.85)] if B >= 1 << 20 else []
    elif B > 4096:
        targets = []
    return Case(
        "reverse_step", f"eta={eta:g} B={B} D={D}", runs, setup.expected, 1e-4, bytes=16 * B * D, flops=6.0 * B * D,
        outputs=dict.fromkeys(own_noise, setup.same_distribution), missing=missing, device=device, targets=targets,
    )  # fmt: skip


def _schedulers(diffusers: Any, eta: float, device: str) -> dict[str, Callable[..., Any]]:
    """Their timestep t is our step t + 1; of one step each."""
    config = dict(num_train_timesteps=T, clip_sample=False, beta_start=1e-4, beta_end=0.02)
    ddim, ddpm = diffusers.DDIMScheduler(**config), diffusers.DDPMScheduler(**config)
    ddim.set_timesteps(T, device=device)

    def ddim_step(x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        out = ddim.step(output, STEP - 1, x, eta=eta)
        return out.prev_sample, out.pred_original_sample

    def ddpm_step(x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        out = ddpm.step(output, STEP - 1, x)
        return out.prev_sample, out.pred_original_sample

    return {"diffusers DDIM": ddim_step} | ({"diffusers DDPM": ddpm_step} if eta == 1 else {})


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))
    B = {"tiny": 4, "quick": 4096, "full": 65536}[size]

    def step(B: int, D: int, eta: float) -> Run:
        setup = Setup(B, D, eta, device)
        return without_grad(setup.ours, [setup.x, setup.output])

    for eta in (0.0, 1.0):
        yield Scaling("reverse_step", f"eta={eta:g}, D=64", "B", rows, lambda n, eta=eta: step(n, 64, eta), float)
    yield Scaling("reverse_step", f"eta=1, B={B}", "D", (16, 32, 64, 128), lambda n: step(B, n, 1.0), lambda n: float(B * n))
