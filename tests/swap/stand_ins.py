"""Layers as a user might have written them by hand, and rules for them."""

import torch
from torch import nn
from torch.nn import functional as F

from ordkernels import ops, swap


class Planar(nn.Module):
    """One constrained planar layer in plain torch."""

    def __init__(self, width=8, act="tanh"):
        super().__init__()
        self.u, self.w = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.b = nn.Parameter(torch.randn(1))
        self.act = act

    def forward(self, z):
        wu = (self.w * self.u).sum()
        u = self.u + (F.softplus(wu) - 1 - wu) * self.w / self.w.square().sum()
        a = torch.tanh((z * self.w).sum(-1) + self.b)
        return z + u * a[:, None], torch.log1p((1 - a**2) * (self.w * u).sum())


class Own(Planar):
    def forward(self, z):
        return z, z.new_zeros(len(z))


class Renamed(Planar):
    """A subclass that changes nothing of what is replaced."""


class Clip(nn.Module):
    def forward(self, increments, widths):
        return torch.minimum(increments.clamp(min=0), widths).sum(1)


def add_rules():
    @swap.rule(Planar, op="planar_flow", unless=lambda layer: None if layer.act == "tanh" else f"act={layer.act!r}")
    class FusedPlanar:
        def forward(self, z):
            if z.dim() != 2:
                return swap.Fallback("z is not a matrix")
            return ops.planar_flow(z, self.u[None], self.w[None], self.b)

    @swap.rule(Clip, op="nested_min", kinks=True)
    class FusedClip:
        def forward(self, increments, widths):
            return ops.nested_min(increments, widths)[0]


class Flow(nn.Module):
    """Two layers that are known, one that is not, one with another activation."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.ModuleList([Planar(width), Renamed(width), Own(width), Planar(width, act="relu")])
        self.head = nn.Linear(width, 1)

    def forward(self, z):
        total = 0
        for layer in self.layers:
            z, log_det = layer(z)
            total = total + log_det
        return self.head(z), total
