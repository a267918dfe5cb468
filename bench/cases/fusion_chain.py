"""Whole guided chains of the session denoiser against eager torch and torch.compile of the whole loop, its branches batched."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ordkernels
from ordkernels import ops
from ordkernels.nn import SessionDenoiser
from ordkernels.reference import fusion_chain as reference
from ordkernels.reference._diffusion import chain_steps
from ordkernels.schedules import NoiseSchedule

from . import OURS, Case, Run, Scaling, Size, Target, compiled, randn, without_grad

SHAPES: dict[tuple[str, Size], tuple[tuple[int, int, int, int, int], ...]] = {  # B, D, hidden, K, steps
    ("cpu", "tiny"): ((5, 3, 8, 2, 3),),
    ("cpu", "quick"): ((128, 64, 256, 4, 10),),
    ("cpu", "full"): tuple((B, 64, 256, 4, S) for B in (1, 128, 1024) for S in (1, 10, 50)),
    ("cuda", "tiny"): ((5, 3, 8, 2, 3),),
    ("cuda", "quick"): ((1024, 64, 256, 4, 10),),
    ("cuda", "full"): tuple((B, 64, 256, 4, S) for B in (1, 1024, 65536) for S in (1, 10)),
}
T = 50
GAMMA_CP, GAMMA_TF = 2.0, 1.0
FASTER = {1: 8.0, 128: 1.6, 1024: 1.25}  # on a CPU, with one thread


class Setup:
    """One denoiser; a `share` of the sessions is present, as masks; noise is given, the same for everyone."""

    def __init__(self, B: int, D: int, H: int, K: int, S: int, device: str, share: float = 0.75) -> None:
        torch.manual_seed(0)
        self.denoiser = SessionDenoiser(D, hidden=H).to(device).eval()
        self.denoiser.empty.data.normal_()
        h, g_cp, g_tf = (randn(*s, device=device, seed=i) for i, s in enumerate(((B, D), (B, K, D), (B, K, D))))
        mask = torch.rand(B, K, generator=torch.Generator().manual_seed(3)) < share
        self.args = [h, g_cp, g_tf, mask.to(device), randn(S, B, D, device=device, seed=4)]
        self.schedule, self.S = NoiseSchedule.cosine(T), S
        self.present = int(mask.sum())

    def ours(self, h: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        return ops.fusion_chain(
            h, g_cp, g_tf, mask, self.denoiser, self.schedule, steps=self.S, gamma_cp=GAMMA_CP, gamma_tf=GAMMA_TF, noise=noise
        )

    def folded(self) -> Any:
        """The fastest form of the chain in plain torch: what depends on the weights and steps alone is computed before timing starts, the
        guidance is projected once, the branches are one batch, and the first pass multiplies their common x once."""
        net, steps = self.denoiser.network, chain_steps(self.S, T)
        numbers = reference.fusion_coefficients(self.schedule.exact, steps).tolist()
        with torch.no_grad():
            w = net.input.weight[:, : net.width].contiguous()
            time = list(net.time_bias(torch.tensor(steps, device=w.device)).unbind())
            unguided = net.condition(self.denoiser.empty)

        def chain(h: Tensor, g_cp: Tensor, g_tf: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
            guided = net.condition(torch.where(mask[..., None], torch.stack((g_cp, g_tf)), 0.0))  # [2, B, K, H]
            shifts = torch.cat((unguided.expand(1, *guided.shape[1:]), guided)).unbind(2)
            present = mask[..., None].unbind(1)
            x = h
            for i, (bias, (d0, d1, sigma, _)) in enumerate(zip(time, numbers, strict=True)):
                f = x
                for shift, m in zip(shifts, present, strict=True):
                    y = net.output(F.silu(F.linear(f, w, bias) + shift))
                    f = torch.where(m, y, f)
                un, cp, tf = f.unbind()
                f = torch.add(torch.add((1 - GAMMA_CP - GAMMA_TF) * un, cp, alpha=GAMMA_CP), tf, alpha=GAMMA_TF)
                x = torch.add(d0 * f, x, alpha=d1)
                if sigma:
                    x = torch.add(x, noise[i], alpha=sigma)
            return torch.where(mask.any(1)[:, None], x, h)

        return chain


def cases(device: str, size: Size) -> Iterator[Case]:
    for shape in SHAPES[device, size]:
        yield _case(*shape, device)
    if size == "full":
        B = 1024 if device == "cpu" else 65536
        yield _case(B, 64, 256, 4, 10, device, share=1.0)


def _case(B: int, D: int, H: int, K: int, S: int, device: str, share: float = 0.75) -> Case:
    share = 1.0 if B == 1 else share
    setup = Setup(B, D, H, K, S, device, share)
    chain = setup.folded()
    runs: dict[str, Run] = {
        OURS: without_grad(setup.ours, setup.args),
        "eager, folded": without_grad(chain, setup.args),
        "compile, folded": without_grad(compiled(chain), setup.args),
    }

    def expected() -> tuple[Any, ...]:
        with ordkernels.use_backend("reference"):
            doubles = Setup(B, D, H, K, S, device, share)
            doubles.denoiser.double()
            return (without_grad(doubles.ours, [t.double() if t.is_floating_point() else t for t in doubles.args])(),)

    if device == "cuda":
        targets = [Target("at least 2x the best baseline", "best baseline", 2.0)]
    else:
        targets = [Target(f"at least {FASTER[B]:g}x the best baseline", "best baseline", FASTER[B])] if B in FASTER else []
    # of the present sessions: 3 branches, but for the first pass in and the last pass out, which a row makes once
    passes = S * (6 * setup.present - 4 * int(setup.args[3].any(1).sum()))
    return Case(
        "fusion_chain", f"B={B} D={D} hidden={H} K={K} steps={S}, {share:.0%} of the sessions", runs, expected, 1e-4,
        bytes=4 * (B * (2 * D + 2 * K * D + S * D) + H * (3 * D + 64)), flops=2.0 * D * H * (passes + 2 * setup.present),
        device=device, targets=targets,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 4, "full": 5}[size]
    rows = tuple(10**e for e in range(1 if size == "tiny" else 3, top + 1))
    D, H, K, S = (3, 8, 2, 2) if size == "tiny" else (32, 128, 4, 5)

    def run(B: int, K: int, S: int) -> Run:
        setup = Setup(B, D, H, K, S, device)
        return without_grad(setup.ours, setup.args)

    yield Scaling("fusion_chain", f"D={D} hidden={H} K={K} steps={S}", "B", rows, lambda n: run(n, K, S), float)
    if size != "tiny":
        B = 4096
        for axis in ("steps", "K"):
            make = (lambda n: run(B, K, n)) if axis == "steps" else (lambda n: run(B, n, S))
            yield Scaling("fusion_chain", f"B={B} D={D} hidden={H}", axis, (4, 8, 16, 32), make, lambda n: float(B * n))
