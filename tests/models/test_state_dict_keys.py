"""Checkpoints stay loadable: every model's state_dict has the keys and shapes in state_dict_keys.json, in that order.

A change here breaks everyone's saved weights: add keys only with a hook that loads older files.
"""

import json
from pathlib import Path

import pytest

from ordkernels import models

KEYS = json.loads((Path(__file__).parent / "state_dict_keys.json").read_text())
TABLE = {"n_users": 0, "n_items": 0, "dense_width": 3, "hidden": 8}
LOGS = {"n_users": 7, "n_items": 12, "dense_width": 5, "hidden": 8, "quantiles": 6}
MODELS = {
    "FlowTime": lambda: models.FlowTime(**LOGS, latent=8, layers=2),
    "FlowTime, DDPM and MLP": lambda: models.FlowTime(**LOGS, latent=8, prior="ddpm", encoder="mlp"),
    "DiffoR": lambda: models.DiffoR(**TABLE, latent=8, heads=4, T=10, denoiser="mlp", denoiser_hidden=16),
    "DiffoR, Transformer": lambda: models.DiffoR(**LOGS, latent=8, heads=4, T=10, denoiser="transformer"),
    "GenerativeRegression": lambda: models.GenerativeRegression(**TABLE, layers=1, ffn=16),
    "IFusion": lambda: models.IFusion(**LOGS, latent=8, sessions=2, denoiser_hidden=16, long=5, levels=4),
    "PooledFusion": lambda: models.PooledFusion(**LOGS, latent=8, sessions=2, long=5, levels=4),
    "ValueRegression": lambda: models.ValueRegression(**LOGS),
    "QuantileRegression": lambda: models.QuantileRegression(**TABLE, levels=5),
    "CREAD": lambda: models.CREAD(**LOGS, intervals=4),
    "TPM": lambda: models.TPM(**TABLE, depth=2),
    "WLR": lambda: models.WLR(**TABLE),
    "D2Q": lambda: models.D2Q(**TABLE, groups=3, knots=4),
    "EGMN": lambda: models.EGMN(**TABLE, components=2),
    "TableRegression": lambda: models.TableRegression(3, 8),
}


def described(name: str) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in MODELS[name]().state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_shapes(name):
    assert list(described(name).items()) == list(KEYS[name].items())
