"""Compiled parts: `_C`, CPU ops on LibTorch's stable ABI (abi3); `_host`, pybind11 and NumPy only; `_cuda`, nvcc, loaded on demand.

Never imports torch, never asks for a GPU, never downloads. What cannot be built is left out and `_build_info.py` says why,
because pip hides the output of a build that succeeds. A compiler that is there and fails, fails the install.
"""

import os
import shutil
import site
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CXX = ["-std=c++20", "-O3", "-g0", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wall", "-Wextra",
       "-Wno-unused-parameter"]  # fmt: skip
TARGET = "0x020b000000000000"  # the oldest torch served, 2.11
ISA: dict[str, list[str]] = {  # instruction set -> flags of its files alone
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "base": [],
}
ARCHS = ("80", "90", "100")


def torch_include() -> str | None:
    """The include folder of the torch beside this interpreter, found without importing it."""
    roots = [os.environ.get("ORDKERNELS_TORCH", "")]  # a folder that holds torch/, for `python -m build` and conda
    roots += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages()]
    for root in roots:
        include = Path(root, "torch", "include")
        if root and (include / "torch/csrc/stable/library.h").exists():
            return str(include)
    return None


def kernel_sources() -> list[str]:
    """A source file per kernel header and instruction set, build/isa/<header>_<isa>.cpp: small files, so a change costs seconds.

    A header that another one includes is a part of that one, and gets none of its own.
    """
    headers = {str(path.relative_to("csrc")): path.read_text() for path in sorted(Path("csrc/cpu").glob("*/*.h"))}
    folder = Path("build/isa")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in headers:
        if any(f'"{name}"' in text for text in headers.values()):
            continue
        for isa in ISA:
            path = folder / f"{Path(name).stem}_{isa}.cpp"
            text = f'#define ORD_ISA {isa}\n#include "{name}"\n'
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
            made.append(str(path))
    return made


def pybind11_include() -> list[str]:
    import pybind11  # a build requirement

    return [pybind11.get_include()]


class Build(build_ext):
    def run(self):
        for old in Path(self.build_lib, "ordkernels").glob("*.so"):  # else a part that is not built now gets into the wheel
            old.unlink()
        super().run()  # in here self.inplace is 0, whatever the user asked for
        if self.inplace:
            for name in ("_build_info.py", "_cuda.so"):
                made, here = Path(self.build_lib, "ordkernels", name), Path("ordkernels", name)
                if made.exists():
                    shutil.copy(made, here)
                else:
                    here.unlink(missing_ok=True)

    def build_extensions(self):
        self.compiler.compile = self.compile_all
        self.not_built: dict[str, str] = {}
        self.have_compiler = shutil.which(self.compiler.compiler_cxx[0]) is not None
        self.stubs = self.make_stubs()
        super().build_extensions()
        self.build_cuda()
        package = Path(self.build_lib, "ordkernels")
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_info.py").write_text(f"NOT_BUILT = {self.not_built!r}\n")

    def compile_all(self, sources, output_dir=None, macros=None, include_dirs=None, debug=0, extra_preargs=None, extra_postargs=None,
                    depends=None):  # fmt: skip
        """The compiler's `compile`, with flags per file and as many files at once as there are cores: setuptools has neither."""
        c = self.compiler
        _, objects, postargs, pp_opts, build = c._setup_compile(output_dir, macros, include_dirs, sources, depends, extra_postargs)
        cc_args = c._get_cc_args(pp_opts, debug, extra_preargs)

        def one(obj):
            src, ext = build[obj]
            extra = ISA.get(Path(src).stem.rpartition("_")[2], [])
            c._compile(obj, src, ext, cc_args, postargs + extra, pp_opts)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, build))
        return objects

    def make_stubs(self):
        """Empty libtorch_cpu.so and libtorch_cuda.so to link against: they only put the names into DT_NEEDED.

        Python loads torch's libraries with RTLD_LOCAL, so a module that does not name them finds none of their symbols.
        The loader matches the name with the library that `import torch` has brought in; no rpath.
        """
        folder = Path(self.build_temp, "stubs").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("torch_cpu", "torch_cuda") if self.have_compiler else ():
            stub = ["-shared", "-x", "c++", "/dev/null", f"-Wl,-soname,lib{name}.so", "-o", str(folder / f"lib{name}.so")]
            subprocess.run([*self.compiler.compiler_cxx, *stub], check=True)
        return folder

    def build_extension(self, ext):
        if ext.name == "ordkernels._C" and INCLUDE is None:
            self.not_built[ext.name] = "torch was not installed when ordkernels was built; install torch, then ordkernels again"
            return
        if not self.have_compiler:  # the package still imports, on the reference
            self.not_built[ext.name] = f"no C++ compiler: {self.compiler.compiler_cxx[0]!r} was not on the path"
            return
        if ext.name == "ordkernels._C":
            ext.extra_link_args = [f"-L{self.stubs}", "-Wl,--no-as-needed", "-ltorch_cpu"]
        super().build_extension(ext)

    def build_cuda(self):
        wish, nvcc = os.environ.get("ORDKERNELS_CUDA", ""), shutil.which("nvcc")
        sources = sorted(map(str, Path("csrc/cuda").glob("*.cu")))
        if wish not in ("", "0", "1"):
            raise SystemExit(f"ORDKERNELS_CUDA: expected 0 or 1, got {wish!r}")
        reason = None
        if not sources:
            reason = "this version has no CUDA C++ kernels (Triton serves CUDA tensors)"
        elif wish == "0":
            reason = "built with ORDKERNELS_CUDA=0"
        elif wish == "" and nvcc is None:
            reason = "nvcc was not on the path"
        elif INCLUDE is None:
            reason = "torch was not installed when ordkernels was built; install torch, then ordkernels again"
        if reason:
            self.not_built["ordkernels._cuda"] = reason
            return
        out = Path(self.build_lib, "ordkernels/_cuda.so")
        out.parent.mkdir(parents=True, exist_ok=True)
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
        targets.append(f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}")
        subprocess.run(
            [nvcc or "nvcc", "-shared", "-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static",
             "-Xptxas", "-v", f"-DTORCH_TARGET_VERSION={TARGET}", "-DUSE_CUDA", "-isystem", str(INCLUDE), "-Icsrc", *targets, *sources,
             "-o", str(out), f"-L{self.stubs}", "-Xlinker", "--no-as-needed", "-ltorch_cpu", "-ltorch_cuda"],
            check=True,
        )  # fmt: skip


INCLUDE = torch_include()
HEADERS = sorted(map(str, Path("csrc").rglob("*.h")))
setup(
    ext_modules=[
        Extension(
            "ordkernels._C",
            [*sorted(map(str, Path("csrc/cpu").glob("*.cpp"))), *kernel_sources()],
            language="c++",
            py_limited_api=True,
            define_macros=[("Py_LIMITED_API", "0x030B0000"), ("TORCH_TARGET_VERSION", TARGET)],
            include_dirs=["csrc"],
            extra_compile_args=[*CXX, "-isystem", str(INCLUDE)],
            depends=HEADERS,
        ),
        Extension(
            "ordkernels._host",
            sorted(map(str, Path("csrc/host").glob("*.cpp"))),
            language="c++",
            include_dirs=["csrc", *pybind11_include()],
            extra_compile_args=[*CXX, "-ffp-contract=off", "-pthread"],  # rounds alike on every instruction set
            extra_link_args=["-pthread"],
            depends=HEADERS,
        ),
    ],
    cmdclass={"build_ext": Build},
)
