"""Constructor arguments: configs and flags say the same, old spellings and unknown names are named, signatures stay short."""

import dataclasses
import inspect
import pickle

import pytest
import torch

from ordkernels import models, nn, samplers
from ordkernels.nn.priors import DiffusionPrior

LOGS = {"n_users": 7, "n_items": 12, "dense_width": 5, "hidden": 8, "quantiles": 6}
CONFIGS = {
    models.FlowTime: {
        "prior_config": models.PriorConfig(prior="ddpm", steps=3),
        "loss_config": models.FlowTimeLoss(crps_weight=0.5),
        "encoder_config": models.EncoderConfig(encoder="mlp", id_width=4),
    },
    models.DiffoR: {
        "diffusion_config": models.DiffusionConfig(T=20, schedule="cosine"),
        "increment_config": models.IncrementConfig(spacing="log", heads_hidden=16),
        "loss_config": models.DiffoRLoss(rho=0.25),
        "encoder_config": models.EncoderConfig(user_history=False),
    },
    models.GenerativeRegression: {
        "vocabulary_config": models.VocabularyConfig(unit=0.5, max_tokens=9),
        "loss_config": models.GRLoss(mixup=None, omega=60.0),
        "decoding_config": models.DecodingConfig(readout="tokens"),
        "encoder_config": models.EncoderConfig(pattern_width=8),
    },
    models.IFusion: {
        "chain_config": models.GuidedChainConfig(steps=3, gamma_tf=0.5),
        "sequence_config": models.SequenceConfig(long=7, levels=4),
        "loss_config": models.IFusionLoss(disentangle="cosine"),
        "encoder_config": models.EncoderConfig(history_dropout=0.0),
    },
    models.PooledFusion: {
        "sequence_config": models.SequenceConfig(long=7, levels=4),
        "loss_config": models.PredictionLoss(click_weight=0.0),
        "encoder_config": models.EncoderConfig(history_dropout=0.0),
    },
    models.ValueRegression: {"encoder_config": models.EncoderConfig(encoder="mlp")},
}


def as_flags(configs: dict) -> dict:
    """The fields that differ from their defaults, as plain keywords."""
    return {
        field.name: getattr(config, field.name)
        for config in configs.values()
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }


def settings(model: torch.nn.Module) -> str:
    """All that was set on the model and its parts, and its parameters' shapes."""
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    return "\n".join(
        f"{name} {type(module).__name__} {key} {value}"
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if (isinstance(value, plain) and not key.startswith("_")) or dataclasses.is_dataclass(value)
    ) + str({name: list(p.shape) for name, p in model.state_dict().items()})


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_configs_and_flags_say_the_same(kind):
    flags = as_flags(CONFIGS[kind])
    assert flags
    by_config, by_flags, default = kind(**LOGS, **CONFIGS[kind]), kind(**LOGS, **flags), kind(**LOGS)
    assert settings(by_config) == settings(by_flags) != settings(default)
    first, *_ = CONFIGS[kind]
    mixed = {k: v for k, v in flags.items() if k not in {f.name for f in dataclasses.fields(CONFIGS[kind][first])}}
    assert settings(kind(**LOGS, **{first: CONFIGS[kind][first]}, **mixed)) == settings(by_config)


@pytest.mark.parametrize("kind", [*CONFIGS, models.CREAD, models.ContextEncoder], ids=lambda kind: kind.__name__)
def test_unknown_flags_are_named_with_those_that_exist(kind):
    with pytest.raises(TypeError, match=r"historydropout: expected an argument or one of the flags .*history_dropout"):
        kind(**LOGS, historydropout=0.1)


FLOWTIME = models.FlowTime(**LOGS)
OLD = [
    (lambda: models.GenerativeRegression(heads=2), "heads", "attention_heads"),
    (lambda: models.IFusion(**LOGS, heads=2), "heads", "attention_heads"),
    (lambda: models.PooledFusion(**LOGS, kind="attention"), "kind", "pooling"),
    (lambda: models.ContextEncoder(**LOGS, kind="mlp"), "kind", "encoder"),
    (lambda: models.CREAD(**LOGS, kind="mlp"), "kind", "encoder"),
    (lambda: models.FlowTime(**LOGS, diffusion_steps=3), "diffusion_steps", "steps"),
    (lambda: models.TargetMap(kind="linear"), "kind", "transform"),
    (lambda: nn.QuantileEncoder(20, kind="mlp"), "kind", "encoder"),
    (lambda: DiffusionPrior(8, 8, kind="ddpm"), "kind", "process"),
    (lambda: samplers.FlowSampler(FLOWTIME, max_elements=9), "max_elements", "max_rows"),
    (lambda: samplers.DiffoRSampler(models.DiffoR(), max_elements=9), "max_elements", "max_rows"),
    (lambda: samplers.FusionSampler(models.IFusion(**LOGS), max_elements=9), "max_elements", "max_rows"),
]


@pytest.mark.parametrize(("call", "old", "new"), OLD, ids=[f"{old} -> {new}" for _, old, new in OLD])
def test_old_spellings_say_the_new_one(call, old, new):
    with pytest.raises(TypeError, match=f"{old}: this argument is now called '{new}'"):
        call()


def test_samplers_take_no_other_keywords():
    with pytest.raises(TypeError, match="rows: got an unexpected keyword argument"):
        samplers.FlowSampler(FLOWTIME, rows=3)


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_signatures_are_short_and_models_pickle(kind):
    assert len(inspect.signature(kind).parameters) <= 15
    model = pickle.loads(pickle.dumps(kind(**LOGS)))
    assert settings(model) == settings(kind(**LOGS))


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        models.EncoderConfig().id_width = 3
