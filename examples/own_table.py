"""From files as they were downloaded to calibrated predictions: text, dates and missing values as they come. Needs pandas.

python examples/own_table.py [ROWS]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from ordkernels import ops
from ordkernels.estimators import FlowTimeRegressor, TableRegressor

folder = Path(__file__).parents[1] / "bench/data/kuairand_pure"
rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000

# any table will do: one row an event, ordered or not
log = np.load(folder / "interactions.npz")
table = pd.DataFrame({name: log[name][-rows:] for name in ("user_id", "video_id", "time_ms", "tab", "play_time_ms")})
table["time"] = pd.to_datetime(table.pop("time_ms"), unit="ms")
table["seconds"] = table.pop("play_time_ms") / 1000
videos = pd.read_csv(folder / "video_features_basic_pure.csv.gz")[["video_id", "upload_dt", "upload_type", "video_duration", "tag"]]
users = pd.read_csv(folder / "user_features_pure.csv.gz")[["user_id", "user_active_degree", "follow_user_num_range", "register_days"]]
table = table.merge(videos, on="video_id", how="left").merge(users, on="user_id", how="left")
train, test = table[: rows * 4 // 5], table[rows * 4 // 5 :]

# ten lines: names of columns, and the target's
model = FlowTimeRegressor(user="user_id", item="video_id", time="time", history=True, epochs=5 if rows > 5_000 else 1)
model.fit(train, "seconds")
print(*model.report_, sep="\n")
print(*model.table_report(test), sep="\n")
median, (low, high) = model.predict(test), model.predict_interval(test, 0.8).T
with tempfile.TemporaryDirectory() as saved:
    model.save_pretrained(saved)
    assert (TableRegressor.from_pretrained(saved).predict(test) == median).all()

y = test["seconds"].to_numpy()
print(
    f"MAE {ops.mae(y, median):.2f} s; of the training median for every row: {ops.mae(y, np.full(len(y), train['seconds'].median())):.2f} s"
)
print(f"80 % interval: covers {ops.coverage(low, high, y)[0]:.1%}")
