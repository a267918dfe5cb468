"""Compiles CUDA C++ for tests: with g++ for the emulator, with nvcc for GPUs that need not be there.

python tests/cuda/compile_cuda.py [FILE.cu ...]: rewrites tests/cuda/resources.json, the registers and the static shared memory of
every kernel, or of those of some files.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
RESOURCES = HERE / "resources.json"


def _setup_constant(name: str) -> str:
    """The text of a constant of setup.py, which cannot be imported."""
    found = re.search(rf"^{name} = (.*?)(?=\n\S)", (ROOT / "setup.py").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def constant(name: str) -> list[str]:
    return list(eval(_setup_constant(name).partition("# fmt")[0]))


def emulated(source: Path, out: Path, *flags: str, csrc: Path = CSRC) -> Path:
    """A shared object without torch."""
    command = ["g++", *constant("EMULATOR"), "-x", "c++", "-fPIC", "-shared", f"-I{csrc}", f"-I{HERE}", *flags, str(source), "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def nvcc(source: Path) -> dict[str, dict[str, list[int]]]:
    """Kernel -> target -> [registers, bytes of static shared memory]. Raises on a warning or a spill."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    archs = constant("ARCHS")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs] + [f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
    strict = ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage", "-Werror", "all-warnings", "-Xcompiler", "-Wall"]
    defines = ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={eval(_setup_constant('TARGET').partition('#')[0])}"]
    include = ["-isystem", str(torch / "include"), f"-I{CSRC}", f"-I{HERE}"]
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-c", "-std=c++20", "-O3", *strict, *defines, *include, *targets, str(source), "-o", f"{folder}/out.o"]
        done = subprocess.run(command, capture_output=True, text=True)
    noise = ("ptxas info", "Function properties", "bytes stack frame")
    if done.returncode:
        raise AssertionError("\n".join(line for line in done.stderr.splitlines() if not any(n in line for n in noise)))
    return resources(subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout)


def resources(log: str) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for name, arch, body in re.findall(r"entry function '(?:void )?(.*?)' for 'sm_(\d+)'\n(.*?)(?=Compile time)", log, re.DOTALL):
        assert not any(int(n) for n in re.findall(r"(\d+) bytes spill", body)), f"{name} spills on sm_{arch}"
        name = name.replace("(anonymous namespace)::", "")
        name = re.sub(r">\(.*", ">", name) if ">(" in name else name.partition("(")[0]
        registers, static = re.search(r"Used (\d+) registers", body), re.search(r"(\d+) bytes smem", body)
        assert registers is not None
        found.setdefault(name, {})[f"sm_{arch}"] = [int(registers[1]), int(static[1]) if static else 0]
    return dict(sorted(found.items()))


def nvcc_version() -> str:
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    return re.search(r"release ([\d.]+)", done.stdout)[1]  # type: ignore[index]


def sources() -> list[Path]:
    return sorted((CSRC / "cuda").glob("*.cu"))


if __name__ == "__main__":
    if shutil.which("nvcc") is None:
        sys.exit("nvcc is not on the path")
    found = json.loads(RESOURCES.read_text())["kernels"] if RESOURCES.exists() and sys.argv[1:] else {}
    for source in [*sources(), HERE / "selftest.cu"]:
        if not sys.argv[1:] or source.name in sys.argv[1:]:
            found[source.name] = nvcc(source)
            text = json.dumps({"nvcc": nvcc_version(), "kernels": dict(sorted(found.items()))}, separators=(", ", ": "))
            RESOURCES.write_text(text.replace('}, "', '},\n"') + "\n")
