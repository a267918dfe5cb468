"""Which of scikit-learn's checks cannot hold."""

from __future__ import annotations

from ._base import GenerativeRegressor, TableRegressor

__all__ = ["expected_failed_checks"]

_SHUFFLED = "training takes the rows in a random order, in batches, so that a row of weight 2 and two equal rows differ"
_PLACES = "without row_id= the draws of a row belong to its place in the table; with it, to its id, in any order and subset"
_PROBA = "predict_proba returns distributions, as in skpro"
_ROLE = "the check deletes values of all columns, and the one with this role needs one in every row"


def expected_failed_checks(estimator: TableRegressor) -> dict[str, str]:
    """The checks of ``sklearn.utils.estimator_checks.check_estimator`` that cannot hold, with the reasons.

    ===============================================  ======================================================================
    check_sample_weight_equivalence_on_dense_data    training takes the rows in a random order, in batches, so that a row of
                                                     weight 2 and two equal rows differ
    check_methods_sample_order_invariance,           without ``row_id=`` the draws of a row belong to its place in the
    check_methods_subset_invariance                  table; with it, to its id, in any order and subset
    check_regressors_no_decision_function            ``predict_proba`` returns distributions, as in skpro
    check_estimators_pickle                          with ``capacity=`` or ``history=True``: the check deletes values of all
                                                     columns, and the one with this role needs one in every row
    ===============================================  ======================================================================

    Args:
        estimator: as it is given to ``check_estimator``.

    Returns:
        For its argument of the same name.

    Example:
        >>> from ordkernels.estimators import ValueRegressor, expected_failed_checks
        >>> sorted(expected_failed_checks(ValueRegressor()))
        ['check_sample_weight_equivalence_on_dense_data']
    """
    found = {"check_sample_weight_equivalence_on_dense_data": _SHUFFLED}
    if isinstance(estimator, GenerativeRegressor):
        found |= {"check_methods_sample_order_invariance": _PLACES, "check_methods_subset_invariance": _PLACES}
        found["check_regressors_no_decision_function"] = _PROBA
    if "capacity" in estimator._needs or "time" in estimator._needs or estimator.history:
        found["check_estimators_pickle"] = _ROLE
    return found
