"""Rules that a test adds are gone after it, and no package stays patched."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ordkernels.swap import _install, _rules


@pytest.fixture(autouse=True)
def rules():
    before = list(_rules.RULES), list(_rules.FUNCTIONS)
    yield
    for found in list(_install.PATCHES.values()):
        found.undo()
    _rules.RULES[:], _rules.FUNCTIONS[:] = before
