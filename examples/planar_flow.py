"""A normalizing flow in one call: fit four planar layers that turn noise into a given distribution.

python examples/planar_flow.py
"""

import torch

import ordkernels
from ordkernels import ops, rng

torch.manual_seed(0)
u, w = (torch.randn(4, 2).mul_(0.1).requires_grad_() for _ in range(2))
b = torch.zeros(4, requires_grad=True)
optimizer = torch.optim.Adam([u, w, b], lr=0.05)


def log_density(x: torch.Tensor) -> torch.Tensor:
    """A ring of radius 2 and width 0.4, up to a constant."""
    return -0.5 * ((x.norm(dim=1) - 2) / 0.4).square()


for step in range(200):
    z = rng.normal(seed=0, row_ids=torch.arange(512), step=step, width=2)  # [512, 2], the same on every machine
    x, log_det = ops.planar_flow(z, u, w, b)  # parameters shared by all rows: [K, D] and [K]
    loss = (-log_density(x) - log_det).mean()  # the reverse KL divergence, up to a constant
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3}: loss {loss.item():.3f}")

with torch.no_grad():
    x, _ = ops.planar_flow(z, u, w, b)
    z_back, _ = ops.planar_flow_inverse(x, u, w, b)
    with ordkernels.use_backend("reference"):  # the same in plain torch
        x_reference, _ = ops.planar_flow(z, u, w, b)
print(f"inverse: largest error {(z_back - z).abs().max().item():.1e}")
print(f"plain torch: largest difference {(x - x_reference).abs().max().item():.1e}")
