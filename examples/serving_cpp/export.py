"""Compile a model's predictions for programs without Python: python examples/serving_cpp/export.py FOLDER [--model NAME].

Writes FOLDER/1/model.pt2 and FOLDER/config.pbtxt, a model for Triton Inference Server, and for score.cpp inputs.pt, some rows, and
expected.txt, what Python predicts for them.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ordkernels import models
from ordkernels.samplers import ScoringModule

B = 24  # example rows
TYPES = {torch.int64: "TYPE_INT64", torch.float32: "TYPE_FP32", torch.bool: "TYPE_BOOL"}


def example(name: str) -> tuple[Any, dict[str, Tensor]]:
    """A model (untrained: put `models.fit` here) and rows of the kind that it reads."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = {"dense": torch.randn(B, 5, generator=g), "y": 20 * torch.rand(B, generator=g)}
    if name in ("flowtime", "ifusion"):
        x |= {"user": torch.randint(0, 6, (B,), generator=g), "item": torch.randint(0, 7, (B,), generator=g)}
        x |= {f"q_{side}": 20 * torch.rand(B, 20, generator=g).sort(1).values for side in ("user", "item")}
        x |= {f"has_{side}": (torch.rand(B, generator=g) < 0.8).float() for side in ("user", "item")}
    if name == "ifusion":
        x |= {"long": torch.randint(0, 8, (B, 6), generator=g), "sessions": torch.randint(0, 8, (B, 4, 3), generator=g)}
        x |= {"feedback": torch.rand(B, 4, 3, 3, generator=g)}
    model = {
        "flowtime": lambda: models.FlowTime(n_users=6, n_items=7, dense_width=5),
        "diffor": lambda: models.DiffoR(dense_width=5, eta=1.0),
        "gr": lambda: models.GenerativeRegression(dense_width=5, unit=0.01),
        "ifusion": lambda: models.IFusion(n_users=6, n_items=7, dense_width=5),
    }[name]()
    model.prepare(x)
    return model, x


def compile_model(module: ScoringModule, row_ids: Tensor, x: dict[str, Tensor], path: Path, **inductor: Any) -> list[Tensor]:
    """Compiles the module for 1 row or more, writes the package, and returns the inputs in their order."""
    inputs = [row_ids, *(x[name] for name in module.inputs)]
    batch = torch.export.Dim("batch", min=1, max=1 << 24)
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=module.dynamic_shapes(batch))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=inductor)
    return inputs


def triton_config(name: str, module: ScoringModule, inputs: list[Tensor]) -> str:
    """The config.pbtxt of the model. Rows are the first of `dims`: the server does not batch models of this platform."""
    lines = [f'name: "{name}"', 'backend: "pytorch"', 'platform: "torch_aoti"', "max_batch_size: 0"]
    for i, (label, t) in enumerate(zip(("row_ids", *module.inputs), inputs, strict=True)):
        dims = ", ".join(map(str, (-1, *t.shape[1:])))
        lines.append(f'input {{ name: "INPUT__{i}" data_type: {TYPES[t.dtype]} dims: [ {dims} ] }}  # {label}')
    dims = f"-1, {len(module.levels)}" if module.levels else "-1"
    lines += [f'output {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ {dims} ] }}', "instance_group { kind: KIND_CPU }"]
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, **inductor: Any) -> None:
    model, x = example(name)
    row_ids = torch.arange(1000, 1000 + B)  # in a service: of the request's rows, whatever batch they come in
    module = model.scoring_module(n=32, seed=7)
    inputs = compile_model(module, row_ids, x, folder / "1/model.pt2", **inductor)
    torch.save(inputs, folder / "inputs.pt")
    expected = model.predict(x, n=32, seed=7, row_ids=row_ids)
    (folder / "expected.txt").write_text("".join(f"{v:.9g}\n" for v in expected.tolist()))
    (folder / "config.pbtxt").write_text(triton_config(folder.name, module, inputs))
    print(f"{name}: {folder}/1/model.pt2, inputs {', '.join(('row_ids', *module.inputs))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="flowtime", choices=["flowtime", "diffor", "gr", "ifusion"])
    arguments = parser.parse_args()
    write(arguments.folder.resolve(), arguments.model)
