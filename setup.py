"""Compiled parts: `_C`, CPU ops on LibTorch's stable ABI; `_host`, NumPy arrays only; both in Python's limited API, so that one binary
serves every torch and Python; `_cuda`, nvcc, loaded on demand.

Never imports torch, never asks for a GPU, never downloads. What cannot be built is left out and `_build_info.py` says why,
because pip hides the output of a build that succeeds. A compiler that is there and fails, fails the install.

Ninja compiles, in `build/obj`: only what has changed (headers and flags count), and a line for each file. Editable installs and
wheels share the objects. `python setup.py -q build_ext` shows the lines that pip hides; `MAX_JOBS` says how many files at once.

`_cuda` is built where nvcc is on the path and the torch beside this interpreter has CUDA (a CPU build of it could not load the part);
`ORDKERNELS_CUDA=1` builds it whatever torch that is, `ORDKERNELS_CUDA=0` leaves it out. `ORDKERNELS_CUDA_EMULATE=1` compiles the same
sources for the CPU, `_cuda_emulated`, in place and for tests alone (csrc/cuda/README.md).

`ORDKERNELS_SANITIZE=address` (and undefined behaviour) or `thread` builds for tests/guard: `build --build-lib build/sanitize/...`.
"""

import importlib.util
import json
import os
import runpy
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CXX = ["-std=c++20", "-O3", "-g0", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wall", "-Wextra",
       "-Wno-unused-parameter"]  # fmt: skip
GLUE = ["-O1"]  # files that check, allocate and call kernels: a third less time to compile, no difference to a call
HOST = ["-ffp-contract=off", "-pthread"]  # rounds alike on every instruction set
# A wheel needs no more than glibc 2.28 and the libstdc++ of GCC 8 (csrc/common/portable.cpp). GCC's conversions of half types are
# linked in, but not its unwinder, of which a process can have one alone.
PORTABLE = ["-D_GLIBCXX_EXTERN_TEMPLATE=0", "-fno-builtin", "-O2"]
LINK = ["-Wl,--push-state,-Bstatic", "-lgcc", "-Wl,--pop-state"]
TARGET = "0x020b000000000000"  # the oldest torch served, 2.11
ISA: dict[str, list[str]] = {  # instruction set -> flags of its files alone
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "base": [],
}
# Large kernels that are as fast with it, and compile in two thirds of the time.
O2 = ("gemm", "nested_min", "planar_flow", "planar_flow_backward", "planar_flow_inverse", "planar_flow_inverse_backward")
ARCHS = ("80", "90", "100")
EMULATE = os.environ.get("ORDKERNELS_CUDA_EMULATE", "") == "1"
EMULATED = Path("ordkernels/_cuda_emulated.so")
# Indices of local arrays are checked (csrc/cuda/emulate.h has the handler), and what they hold is not zero by chance.
EMULATOR = ["-std=c++20", "-O1", "-g1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-parameter",
            "-fsanitize=bounds", "-fno-sanitize-recover=bounds", "-ftrivial-auto-var-init=pattern"]  # fmt: skip
# Flags that come last and win. An instruction set's code is checked as it is: `omp simd` loops are vectorised at -O1 too.
# Division by zero is left out: it is IEEE arithmetic, and used.
SANITIZERS = {
    "": [],
    "address": ["-fsanitize=address,undefined,float-cast-overflow", "-O1", "-g1", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread", "-O1", "-g1", "-fno-omit-frame-pointer"],  # `_host` alone: torch itself would have to be built so
}
SANITIZED = Path("build/sanitize")
SANITIZE = os.environ.get("ORDKERNELS_SANITIZE", "")
if SANITIZE not in SANITIZERS:
    raise SystemExit(f"ORDKERNELS_SANITIZE: expected 'address' or 'thread', got {SANITIZE!r}")
OBJECTS = SANITIZED / SANITIZE / "obj" if SANITIZE else Path("build/obj")
GENERATED = Path("build/generated")
EXPORTS = "{ global: PyInit_*; local: *; };\n"


def torch_include() -> str | None:
    """The include folder of the torch beside this interpreter, found without importing it."""
    roots = [os.environ.get("ORDKERNELS_TORCH", "")]  # a folder that holds torch/, for `python -m build` and conda
    roots += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages()]
    for root in roots:
        include = Path(root, "torch", "include")
        if root and (include / "torch/csrc/stable/library.h").exists():
            return str(include)
    return None


def write_if_changed(path: Path, text: str) -> Path:
    """Else ninja would compile what reads it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def kernel_sources() -> list[str]:
    """A source file per kernel header and instruction set, build/isa/<header>_<isa>.cpp: small files, so a change costs seconds.

    A header that another one includes is a part of that one, and gets none of its own.
    """
    headers = {str(path.relative_to("csrc")): path.read_text() for path in sorted(Path("csrc/cpu").glob("*/*.h"))}
    sources = []
    for name in headers:
        if any(f'"{name}"' in text for text in headers.values()):
            continue
        for isa in ISA:
            path = Path("build/isa", f"{Path(name).stem}_{isa}.cpp")
            write_if_changed(path, f'#define ORD_ISA {isa}\n#include "{name}"\n')
            sources.append(str(path))
    return sources


def generate_schemas() -> None:
    """The schemas of `ordkernels/_schemas.py` as C++ string literals, build/generated/schemas.inc."""
    definitions = runpy.run_path("ordkernels/_schemas.py")["definitions"]()
    write_if_changed(GENERATED / "schemas.inc", "".join(f"{json.dumps(schema)},\n" for schema in definitions))


def kernel_flags(source: str) -> list[str] | None:
    """The flags of a source for one instruction set; None for the files that check, allocate and call kernels."""
    kernel, _, isa = Path(source).stem.rpartition("_")
    if isa not in ISA:
        return None
    return ["-O2" if kernel in O2 else "-O3", *ISA[isa]]


def why_no_cuda() -> str:
    """Why `_cuda` is left out; "" where it is built. Where it is asked for and cannot be, the build ends."""
    wish = os.environ.get("ORDKERNELS_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"ORDKERNELS_CUDA: expected 0 or 1, got {wish!r}")
    if wish == "0":
        return "built with ORDKERNELS_CUDA=0"
    missing = ""
    if shutil.which("nvcc") is None:
        missing = "nvcc was not on the path"
    elif INCLUDE is None:
        missing = "torch was not installed when ordkernels was built; install torch, then ordkernels again"
    elif wish == "" and not Path(INCLUDE, "../lib/libtorch_cuda.so").exists():
        missing = "the torch beside it had no CUDA (ORDKERNELS_CUDA=1 builds it all the same)"
    if wish == "1" and missing:
        raise SystemExit(f"ORDKERNELS_CUDA=1: {missing}")
    return missing


class Ninja:
    """A build.ninja: objects with the headers that they read, libraries from them."""

    def __init__(self, compiler: list[str], linker: list[str], part: str = ""):
        self.folder = OBJECTS / part  # of ninja's own files
        self.linker, sanitize = [*linker, *SANITIZERS[SANITIZE]], shlex.join(SANITIZERS[SANITIZE])
        self.rules = [
            f"builddir = {self.folder}",
            f"rule compile\n  command = {shlex.join(compiler)} $flags {sanitize} -MMD -MF $out.d -c $in -o $out\n"
            "  depfile = $out.d\n  deps = gcc\n"
            "  description = $name",
        ]

    def compile(self, source: str, folder: str, flags: list[str], after: Path | str = "") -> Path:
        path = Path(source)
        out = OBJECTS / folder / f"{path.stem}.o"
        stem, _, isa = path.stem.rpartition("_")
        name = f"{stem} {isa}" if isa in ISA else f"{path.parent.name}/{path.name}"
        self.rules.append(f"build {out}: compile {source} | {after}\n  flags = {shlex.join(flags)}\n  name = {name}")
        return out

    def precompile(self, header: str, flags: list[str]) -> Path:
        """A header that includes `header`, with its precompiled form beside it: for `-include`."""
        out = OBJECTS / "precompiled" / Path(header).name
        write_if_changed(out, f'#include "{header}"\n')
        flags = [*flags, "-x", "c++-header"]
        self.rules.append(f"build {out}.gch: compile {out}\n  flags = {shlex.join(flags)}\n  name = {header}")
        return out

    def link(self, out: Path, objects: list[Path], flags: list[str]) -> None:
        command = f"{shlex.join(self.linker)} $in -o $out {shlex.join(flags)}"
        self.rules.append(f"rule link_{out.stem}\n  command = {command}\n  description = link {out.name}")
        self.rules.append(f"build {out}: link_{out.stem} {' '.join(map(str, objects))}")

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "build.ninja"
        file.write_text("\n".join(self.rules) + "\n")
        ninja = [sys.executable, "-m", "ninja"] if importlib.util.find_spec("ninja") else ["ninja"]
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        subprocess.run([*ninja, "-f", str(file), "-j", jobs], check=True, env={**os.environ, "NINJA_STATUS": "[%f/%t] "})


class Build(build_ext):
    def run(self):
        if SANITIZE and (self.inplace or not Path(self.build_lib).is_relative_to(SANITIZED)):  # never in place, never in a wheel
            raise SystemExit(f"ORDKERNELS_SANITIZE: expected --build-lib below {SANITIZED}, got {self.build_lib}")
        if EMULATE and not self.inplace:
            raise SystemExit("ORDKERNELS_CUDA_EMULATE: expected build_ext --inplace, it is for tests and never in a wheel")
        why_no_cuda()  # before anything is compiled
        for old in Path(self.build_lib, "ordkernels").glob("*.so"):  # else a part that is not built now gets into the wheel
            old.unlink()
        super().run()  # in here self.inplace is 0, whatever the user asked for
        if self.inplace:
            for name in ("_build_info.py", "_cuda.so"):
                built, here = Path(self.build_lib, "ordkernels", name), Path("ordkernels", name)
                if built.exists():
                    shutil.copy(built, here)
                else:
                    here.unlink(missing_ok=True)

    def copy_extensions_to_source(self):
        for ext in self.extensions:
            ext.optional = ext.name in self.not_built  # is not there to be copied
            for old in Path("ordkernels").glob(f"{ext.name.rpartition('.')[2]}.*so"):  # one for this Python alone would go before abi3
                old.unlink()
        super().copy_extensions_to_source()

    def build_extensions(self):
        self.not_built: dict[str, str] = {}
        self.have_compiler = shutil.which(self.compiler.compiler_cxx[0]) is not None
        self.stubs = self.make_stubs()
        self.build_cpp()
        self.build_cuda()
        package = Path(self.build_lib, "ordkernels")
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_info.py").write_text(f"NOT_BUILT = {self.not_built!r}\n")

    def build_cpp(self):
        """`_C` and `_host`, in one run of ninja."""
        libraries: dict[str, Path] = {}
        generate_schemas()
        ninja = Ninja([*self.compiler.compiler_so_cxx, *CXX, "-Icsrc", f"-I{GENERATED}"], self.compiler.linker_so_cxx)
        portable = ninja.compile("csrc/common/portable.cpp", "common", PORTABLE)
        exports = write_if_changed(GENERATED / "exports.map", EXPORTS)
        link = [f"-Wl,--version-script={exports}", *LINK]
        python = f"-I{sysconfig.get_path('include')}"
        for ext in self.extensions:
            if ext.name == "ordkernels._C" and INCLUDE is None:
                self.not_built[ext.name] = "torch was not installed when ordkernels was built; install torch, then ordkernels again"
            elif not self.have_compiler:  # the package still imports, on the reference
                self.not_built[ext.name] = f"no C++ compiler: {self.compiler.compiler_cxx[0]!r} was not on the path"
            elif ext.name == "ordkernels._C" and SANITIZE == "thread":
                self.not_built[ext.name] = "built with ORDKERNELS_SANITIZE=thread"
            elif ext.name == "ordkernels._C":
                torch = [*GLUE, "-DPy_LIMITED_API=0x030B0000", f"-DTORCH_TARGET_VERSION={TARGET}", "-isystem", str(INCLUDE), python]
                checks = ninja.precompile("cpu/checks.h", torch)  # torch's headers, read once
                glue = [*torch, "-include", str(checks)]
                objects = []
                for source in ext.sources:
                    flags = kernel_flags(source)
                    objects.append(ninja.compile(source, "cpu", flags) if flags else ninja.compile(source, "cpu", glue, f"{checks}.gch"))
                libraries[ext.name] = OBJECTS / "_C.so"
                ninja.link(libraries[ext.name], [*objects, portable], [*link, f"-L{self.stubs}", "-Wl,--no-as-needed", "-ltorch_cpu"])
            else:
                flags = [*HOST, python]
                objects = [ninja.compile(s, "host", [*flags, *GLUE] if Path(s).name == "module.cpp" else flags) for s in ext.sources]
                libraries[ext.name] = OBJECTS / "_host.so"
                ninja.link(libraries[ext.name], [*objects, portable], [*link, "-pthread"])
        if libraries:
            ninja.run()
        for name, library in libraries.items():
            path = Path(self.get_ext_fullpath(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, path)

    def make_stubs(self):
        """Empty libtorch_cpu.so and libtorch_cuda.so to link against: they only put the names into DT_NEEDED.

        Python loads torch's libraries with RTLD_LOCAL, so a module that does not name them finds none of their symbols.
        The loader matches the name with the library that `import torch` has brought in; no rpath.
        """
        folder = (OBJECTS / "stubs").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("torch_cpu", "torch_cuda") if self.have_compiler else ():
            stub = ["-shared", "-x", "c++", "/dev/null", f"-Wl,-soname,lib{name}.so", "-o", str(folder / f"lib{name}.so")]
            subprocess.run([*self.compiler.compiler_cxx, *stub], check=True)
        return folder

    def build_cuda(self):
        """`_cuda` by nvcc, and the emulated one."""
        nvcc, reason = shutil.which("nvcc") or "", why_no_cuda()
        sources = sorted(map(str, Path("csrc/cuda").glob("*.cu")))
        defines = [f"-DTORCH_TARGET_VERSION={TARGET}", "-isystem", str(INCLUDE), "-Icsrc"]
        link = [f"-L{self.stubs}", "-Xlinker", "--no-as-needed", "-ltorch_cpu"]
        if reason:
            self.not_built["ordkernels._cuda"] = reason
        else:
            targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
            targets.append(f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}")
            flags = ["-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-DUSE_CUDA", *defines, *targets]
            ninja = Ninja([nvcc], [nvcc, "-shared", "-cudart", "static"], "cuda")
            objects = [ninja.compile(source, "cuda", flags) for source in sources]
            # As `_C`: no newer glibc than manylinux_2_28's, nothing exported (registration is by static constructors).
            exports = write_if_changed(GENERATED / "exports.map", EXPORTS)
            objects += [portable] if (portable := OBJECTS / "common/portable.o").exists() else []
            ninja.link(OBJECTS / "_cuda.so", objects, ["-Xlinker", f"--version-script={exports}", *link, "-ltorch_cuda"])
            ninja.run()
            out = Path(self.build_lib, "ordkernels/_cuda.so")
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(OBJECTS / "_cuda.so", out)
        if EMULATE and INCLUDE and self.have_compiler:
            ninja = Ninja([*self.compiler.compiler_so_cxx, *EMULATOR], self.compiler.linker_so_cxx, "emulated")
            objects = [ninja.compile(source, "emulated", ["-x", "c++", *defines]) for source in sources]
            ninja.link(EMULATED, objects, link)
            ninja.run()


INCLUDE = torch_include()
setup(
    ext_modules=[
        Extension(
            "ordkernels._C", [*sorted(map(str, Path("csrc/cpu").glob("*.cpp"))), *kernel_sources()], language="c++", py_limited_api=True
        ),
        Extension("ordkernels._host", sorted(map(str, Path("csrc/host").glob("*.cpp"))), language="c++", py_limited_api=True),
    ],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for every Python
)
