import pytest
from emulated import ORDERS


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks and threads of the emulated GPU take turns in another order."""
    monkeypatch.setenv("ORDKERNELS_EMULATE_SEED", str(request.param))
    return request.param
