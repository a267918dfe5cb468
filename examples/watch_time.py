"""Predict the distribution of a watch time: train FlowTime on a slice of KuaiRand-Pure, sample, score.

python examples/watch_time.py [ROWS]
"""

import sys

from ordkernels import ops
from ordkernels.data import kuairand, n_ids
from ordkernels.models import FlowTime, fit

rows = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
train, test = kuairand()
train = {name: v[:rows] for name, v in train.items()}
test = {name: v[: rows // 4] for name, v in test.items()}

model = FlowTime(*n_ids(train, test), train["dense"].shape[1])
fit(model, train, epochs=1, progress=False)

x = {name: v for name, v in test.items() if name != "y"}
draws = model.sample(x, n=64, seed=0, row_ids=x["row"])  # [N, 64], seconds
median = model.predict(x, row_ids=x["row"])
low, high = model.interval(x, 0.8, row_ids=x["row"]).unbind(1)
share, width = ops.coverage(low, high, test["y"])
print(f"trained on {len(train['y']):,} rows, scored on {len(test['y']):,}")
print(f"MAE {ops.mae(test['y'], median):.2f} s, XAUC {ops.xauc(test['y'], median).value:.4f}")
print(f"CRPS {ops.crps(draws, test['y'], fair=True).mean().item():.2f} s")
print(f"80 % interval: covers {share:.1%}, {width:.1f} s wide")
