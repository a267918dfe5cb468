"""Features of a user's past without leakage, and exact scores; NumPy alone.

python examples/history_features.py
"""

import numpy as np

from ordkernels import scores
from ordkernels.quantiles import history_quantiles, out_of_fold_quantiles

random = np.random.default_rng(0)
events, users = 20_000, 500
user, time = random.integers(0, users, events), random.permutation(events)
watched = random.exponential(10 + user / 10)  # users differ

past = history_quantiles(watched, user, time, levels=[0.25, 0.5, 0.75])  # [N, 3], strictly earlier events of the user
known = np.isfinite(past[:, 1])
print(f"{known.mean():.1%} of the events have a past")
print(f"XAUC of the median of a user's past: {scores.xauc(watched[known], past[known, 1]).value:.4f}")

order = np.argsort(user, kind="stable")  # groups one after the other, as offsets
offsets = np.searchsorted(user[order], np.arange(users + 1))
others = out_of_fold_quantiles(watched[order], offsets, [0.5])  # data without times: the user's events in other folds
print(f"XAUC of the median of a user's events in other folds: {scores.xauc(watched[order], others[:, 0]).value:.4f}")
