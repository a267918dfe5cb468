"""How many examples: 20 of each function in `make test`, always the same ones; ``EXAMPLES=10000``, of a random seed, in `make fuzz`.

``SHRINK=0`` shows failures as they are found, without the search for the smallest.
"""

import os

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = os.environ.get("EXAMPLES", "")
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if os.environ.get("SHRINK") != "0" else [])]

settings.register_profile(
    "fuzz",
    max_examples=int(EXAMPLES or 20),
    derandomize=not EXAMPLES,
    print_blob=bool(EXAMPLES),
    phases=PHASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")
