"""Scores of predictions in a file of any size: what `python -m ordkernels score-file` prints.

python examples/score_file.py
"""

import tempfile
from pathlib import Path

import numpy as np

from ordkernels.__main__ import main

random = np.random.default_rng(0)
y = random.exponential(30, 5_000)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "predictions.npz")
    np.savez(file, y=y, p=y + random.normal(0, 10, y.size), user=random.integers(0, 50, y.size))
    main(["score-file", str(file), "--truth", "y", "--pred", "p", "--group", "user"])
