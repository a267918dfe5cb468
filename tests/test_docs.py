"""The API reference builds, and every public name is documented in one dialect."""

import importlib
import importlib.util
import inspect
import re
import warnings

import pytest

import ordkernels

MODULES = [
    "ops",
    "rng",
    "quantiles",
    "scores",
    "vocabulary",
    "schedules",
    "nn",
    "samplers",
    "models",
    "estimators",
    "diagnostics",
    "data",
    "swap",
]


def public():
    adapters = [f"adapters.{peer}" for peer in ("diffusers", "pyro", "skpro") if importlib.util.find_spec(peer)]
    for name in MODULES + adapters:
        module = importlib.import_module(f"ordkernels.{name}")
        for attribute in module.__all__:
            value = getattr(module, attribute)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{name}.{attribute}", value


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert re.match(r"\S.*[.:]$", text.split("\n\n")[0].replace("\n", " ")), f"{name}: {text[:80]!r}"
    assert not re.search(r"^(Errors|Example|Note|Arguments|Parameters|Return|Raise)s?(: |::)", text, re.M), name
    for section in re.findall(r"^(\w+):$", text, re.M):
        assert section in ("Args", "Returns", "Raises", "Source", "Example", "Yields", "Attributes"), f"{name}: {section}"


@pytest.mark.slow
def test_the_api_reference_builds(tmp_path):
    pdoc = pytest.importorskip("pdoc")
    for peer in ("diffusers", "pyro"):  # what the adapters import
        pytest.importorskip(peer)
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without = [] if importlib.util.find_spec("skpro") else ["!ordkernels.adapters.skpro"]  # it needs an older pandas
        pdoc.pdoc("ordkernels", "ordkernels.estimators", *without, output_directory=tmp_path)
    for name in MODULES:
        page = (tmp_path / "ordkernels" / f"{name}.html").read_text()
        for attribute in getattr(ordkernels, name).__all__:
            assert attribute in page, f"{name}.{attribute}"
