"""The ops that bench/run.py measures, without importing torch, whose number of threads is fixed by then."""

from pathlib import Path

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("cases/[a-z]*.py")))  # one file per op
NOT_OPS = {  # files of an earlier layout, and ops that share another's kernel -> what to ask for
    "denoise": ("q_sample", "reverse_step"),
    "denoise_guided": ("guided_posterior_step",),
    "flow_sample": ("q_sample",),
    "flow_step": ("reverse_step",),
    "increments": ("encode_increments", "nested_min"),
    "predict_x0": ("reverse_step",),
    "quantiles": ("segment_quantiles", "leave_one_out_quantiles", "history_quantiles", "wasserstein_quantile_loss"),
    "scores": ("crps", "histogram_jsd", "xauc"),
    "value_tokens": ("embedding_mixup", "windowed_value", "vocabulary"),
}


def check(name: str) -> None:
    if name in NOT_OPS:
        raise SystemExit(f"op: {name!r} is measured by {' '.join(NOT_OPS[name])}")
    if name not in NAMES:
        raise SystemExit(f"op: expected one of {', '.join(NAMES)}, got {name!r}")
