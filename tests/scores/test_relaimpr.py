"""RelaImpr against its formula."""

import pytest

from ordkernels import ops


def test_relaimpr():
    assert ops.relaimpr(0.75, 0.7) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.relaimpr(0.6, 0.5), ValueError, "base: expected an AUC other than 0.5"),
        (lambda: ops.relaimpr("a", 0.6), TypeError, "measured: expected a number, got str"),
    ],
)
def test_error_texts(call, error, text):
    with pytest.raises(error, match=text):
        call()
