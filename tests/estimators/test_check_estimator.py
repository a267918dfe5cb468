"""scikit-learn's own checks of estimators: all hold but those that `expected_failed_checks` lists, which do not."""

import pytest
from sklearn.utils.estimator_checks import check_estimator, check_regressors_train

from ordkernels import estimators
from ordkernels.estimators import expected_failed_checks

TRUNK = {"trunk_width": 16, "trunk_blocks": 1}
SMALL = {
    "FlowTime": {"latent": 8, "hidden": 8, "layers": 1, **TRUNK},
    "DiffoR": {"T": 8, "hidden": 16, "denoiser_hidden": 16, "latent": 8, "heads": 2, **TRUNK},
    "GR": {"hidden": 16, **TRUNK},
    "IFusion": {"latent": 8, "attention_heads": 2, "hidden": 8, "denoiser_hidden": 8, "sessions": 1, "long": 4, "session_items": 2},
    **{name: {} for name in ("Value", "CREAD", "TPM", "WLR", "D2Q", "EGMN")},
}
ROLES = {"IFusion": {"user": "0", "item": "0", "time": "0"}, "D2Q": {"capacity": "0"}}
TRAINED = "check_regressors_train"  # of an R² that takes more than the one epoch which the other checks are given


def small(name, **arguments):
    return getattr(estimators, f"{name}Regressor")(**ROLES.get(name, {}), options=SMALL[name], **arguments)


@pytest.mark.filterwarnings("ignore:X has feature names", "ignore:X does not have valid")
@pytest.mark.parametrize("name", SMALL)
def test_all_but_the_listed_hold(name):
    estimator = small(name, epochs=1)
    expected = expected_failed_checks(estimator)
    found = check_estimator(estimator, expected_failed_checks={**expected, TRAINED: "one epoch"}, on_fail=None, on_skip=None)
    failed = {check["check_name"]: repr(check["exception"]) for check in found if check["status"] == "failed"}
    assert not failed
    xfailed = {check["check_name"] for check in found if check["status"] == "xfail"}
    by_chance = {"check_methods_subset_invariance"}  # after one epoch all draws of a small model may be equal
    assert set(expected) - by_chance <= xfailed
    assert len(found) > 50


@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.parametrize("cls", [estimators.FlowTimeRegressor, estimators.ValueRegressor])
def test_training_explains_the_target(cls):
    check_regressors_train(cls.__name__, cls(epochs=60, learning_rate=0.003, validation_fraction=0))
