"""A whole denoising loop in one call, and the same loop step by step.

python examples/diffusion.py
"""

import torch

from ordkernels import ops, rng
from ordkernels.nn import MLPDenoiser
from ordkernels.schedules import NoiseSchedule, aligned_timesteps

torch.manual_seed(0)
rows, width, heads, timesteps = 256, 32, 4, 100
schedule = NoiseSchedule.cosine(timesteps)
denoiser = MLPDenoiser(width, cond_width=16)
cond = torch.randn(rows, 16)
noise = rng.normal(seed=7, row_ids=torch.arange(rows), step=0, width=width)
aligned = aligned_timesteps(heads, timesteps)  # where DiffoR reads its estimates out
steps = sorted({*range(timesteps, 0, -10), *aligned.tolist()}, reverse=True)

with torch.inference_mode():
    x_0, read_out = ops.denoise_chain(noise, cond, denoiser, schedule, steps=steps, aligned=aligned, prediction="v")

    x_t = noise
    for t, s in zip(steps, [*steps[1:], 0], strict=True):
        output = denoiser(x_t, torch.full((rows,), t), cond)
        x_t, _ = ops.reverse_step(x_t, output, schedule.alpha_bar[t], schedule.alpha_bar[s], prediction="v")

print(f"{len(steps)} steps, read-outs {list(read_out.shape)}; one call against the loop: {(x_0 - x_t).abs().max().item():.1e}")
