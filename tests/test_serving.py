"""Models without Python: `ScoringModule` exported, compiled by AOTInductor, and served by the C++ program of the example."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ordkernels import _library
from ordkernels.models import DiffoR
from ordkernels.samplers import ScoringModule

FOLDER = Path(__file__).parents[1] / "examples/serving_cpp"
sys.path.insert(0, str(FOLDER))
import export  # noqa: E402

MODELS = ("flowtime", "diffor", "gr", "ifusion")
NATIVE = next(iter(Path(_library.__file__).parent.glob("_C*.so")), None)
served = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    pytest.mark.skipif(NATIVE is None, reason="ordkernels was built without _C"),
]


def exported(name: str, **arguments: object) -> tuple[ScoringModule, torch.nn.Module, list[torch.Tensor]]:
    model, x = export.example(name)
    module = model.scoring_module(**arguments)
    inputs = [torch.arange(5, 5 + export.B), *(x[key] for key in module.inputs)]
    batch = torch.export.Dim("batch", min=1)
    return module, torch.export.export(module, tuple(inputs), dynamic_shapes=module.dynamic_shapes(batch)).module(), inputs


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("arguments", [{"statistic": "mean", "seed": -1}, {"levels": [0.1, 0.5, 0.9]}], ids=["mean", "levels"])
def test_exported_for_any_batch(name: str, arguments: dict[str, object]) -> None:
    module, program, inputs = exported(name, n=6, **arguments)
    model, x = export.example(name)
    for rows in (slice(None), slice(3, 11), slice(7, 8)):
        part = {key: x[key][rows] for key in module.inputs}
        ids, seed = inputs[0][rows], int(arguments.get("seed", 0))
        if "levels" in arguments:
            expected = model.sampler()._statistics(part, 6, seed, ids, arguments["levels"])
            assert torch.equal(expected[:, [0, 2]], model.interval(part, 0.8, 6, seed, ids))
        else:
            expected = model.predict(part, 6, seed, ids, statistic="mean")
        torch.testing.assert_close(program(*(t[rows] for t in inputs)), expected, rtol=1e-5, atol=1e-5)


def test_a_scoring_module_is_a_copy_in_eval_mode() -> None:
    model, x = DiffoR(dense_width=2), {"dense": torch.randn(4, 2)}
    module = model.train().scoring_module(n=4)
    before = module(torch.arange(4), x["dense"])
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert model.training
    assert not any(m.training for m in module.modules())
    assert torch.equal(module(torch.arange(4), x["dense"]), before)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": 0}, "n: expected at least 1, got 0"),
        ({"statistic": "mode"}, "statistic: expected 'median' or 'mean', got 'mode'"),
        ({"levels": [0.5, 1.5]}, "levels: expected a finite number of 0 to 1, got 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        DiffoR(dense_width=2).scoring_module(**arguments)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("score") / "score"
    subprocess.run(["bash", str(FOLDER / "build.sh"), str(path)], check=True, env=os.environ | {"PYTHON": sys.executable})
    return path


class TestProgram:
    pytestmark = served

    @pytest.mark.parametrize("name", ["diffor", *(pytest.param(name, marks=pytest.mark.serving) for name in ("flowtime", "gr", "ifusion"))])
    def test_predicts_as_python_does(self, name: str, program: Path, tmp_path: Path) -> None:
        export.write(tmp_path, name, **{"aot_inductor.compile_wrapper_opt_level": "O0"})  # seconds less to compile
        expected = torch.tensor([float(line) for line in (tmp_path / "expected.txt").read_text().split()])
        assert len(expected) == export.B
        for rows in ([], ["7"], ["1"]):
            command = [program, NATIVE, tmp_path / "1/model.pt2", tmp_path / "inputs.pt", *rows]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": ""})
            assert done.returncode == 0, done.stderr[-2000:]
            got = torch.tensor([float(line) for line in done.stdout.split()])
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    def test_needs_no_python(self, program: Path) -> None:
        assert NATIVE is not None
        for file in (program, NATIVE):
            libraries = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
            assert "libc.so" in libraries
            assert "python" not in re.sub(r"=> .*", "", libraries)

    def test_says_what_is_wrong(self, program: Path, tmp_path: Path) -> None:
        for command, text in (([], "usage"), (["/nowhere.so", "m.pt2", "i.pt"], "LIBRARY"), ([NATIVE, "m.pt2", "/nowhere.pt"], "INPUTS")):
            done = subprocess.run([program, *command], capture_output=True, text=True, check=False)
            assert done.returncode != 0
            assert text in done.stderr


def test_the_servers_configuration_is_of_the_example() -> None:
    module, _, inputs = exported("flowtime")
    assert (FOLDER / "config.pbtxt").read_text() == export.triton_config("watch_time", module, inputs)
