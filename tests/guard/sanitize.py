"""`make sanitize`: the C++ parts under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer. Exit 1 on any report.

Both builds lie below build/sanitize, beside the ordinary one. Under ``address`` (with undefined behaviour) the tests of the ops and of
the data side run on the best instruction set, then on the others; under ``thread`` host_threads.py runs on `_host`.
Python and torch are not instrumented: memory that they allocate is watched all the same, since the allocator is the sanitizer's.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
# Registration and ahead-of-time tests start compilers, and run no kernel that the others do not.
ADDRESS_TESTS = [
    "-m", "not registration and not triton and not aot", "tests/ops", "tests/quantiles", "tests/scores", "tests/test_rng.py",
    "tests/test_vocabulary.py", "tests/models/test_adamw.py",
]  # fmt: skip
NATIVE_TESTS = ["-m", "native and not registration", "tests/ops", "tests/test_rng.py", "tests/models/test_adamw.py"]
PRELOADED = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = {
    # No suppressions. Python and torch keep memory until the end, so leaks are for `make soak`; libraries are loaded twice without a fault;
    # a test asks for more memory than there is.
    "address": "detect_leaks=0:detect_odr_violation=0:alloc_dealloc_mismatch=0:allocator_may_return_null=1",
    "thread": "halt_on_error=0",
}


def flags(kind: str) -> list[str]:
    """Those of setup.py, which cannot be imported."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SANITIZERS":
            return ast.literal_eval(node.value)[kind]
    raise LookupError("setup.py: expected SANITIZERS")


def missing(kind: str) -> str:
    """Why this machine cannot run `kind`; empty if it can."""
    if shutil.which("gcc") is None:
        return "gcc was not on the path"
    absent = [name for name in PRELOADED[kind] if _library(name) == name]
    return f"gcc has no {', '.join(absent)}" if absent else ""


def _library(name: str) -> str:
    return subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()


def build(kind: str) -> Path:
    """A folder to import the instrumented package from."""
    folder = Path("build/sanitize", kind)
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "ORDKERNELS_SANITIZE": kind})
    return ROOT / folder


def run(kind: str, command: list[str], reports: Path, path: Path | None = None, **variables: str) -> tuple[int, str]:
    """(exit status, all reports) of a Python command, with `path` in front of every other place to import from.

    Reports go to files, since a process that dies takes along what pytest has captured; but gcc's libubsan, beside libasan, knows only
    stderr, so that this is kept in a file too.
    """
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    log = f"log_path={reports / 'report'}"
    environment = {
        **os.environ,
        # libstdc++ too: else the sanitizer, which comes first, finds no __cxa_throw to intercept.
        "LD_PRELOAD": " ".join(map(_library, (*PRELOADED[kind], "libstdc++.so.6"))),
        "ASAN_OPTIONS": f"{OPTIONS['address']}:{log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
        "TSAN_OPTIONS": f"{OPTIONS['thread']}:{log}",
        "PYTHONSAFEPATH": "1",  # the folder that it is started in holds the ordinary build
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, HERE)))),
        **variables,
    }
    # ThreadSanitizer's shadow memory needs the addresses that a process has without randomization.
    start = ["setarch", "-R"] if kind == "thread" else []
    with open(reports / "stderr", "wb") as stderr:
        command = [*start, sys.executable, *command]
        status = subprocess.run(command, cwd=ROOT, env=environment, stderr=stderr, check=False).returncode
    found = {file.name: file.read_text(errors="replace") for file in sorted(reports.iterdir())}
    written = found.pop("stderr")
    if status or "runtime error:" in written:
        found["stderr"] = written
    return status, "".join(found.values())


def passes(kind: str, arguments: list[str]) -> list[tuple[str, list[str], dict[str, str]]]:
    """(name, command, variables) of what runs under `kind`."""
    if kind == "thread":
        return [("host_threads.py", [str(HERE / "host_threads.py")], {})]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]  # what C++ writes to stderr passes
    found = [("best instruction set", [*pytest, *ADDRESS_TESTS, *arguments], {"OMP_NUM_THREADS": "2"})]
    for isa in ("avx2", "base"):
        found.append((isa, [*pytest, *NATIVE_TESTS, *arguments], {"OMP_NUM_THREADS": "2", "ORDKERNELS_ISA": isa}))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=PRELOADED, action="append", help="default: both")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    failed = False
    for kind in options.kind or PRELOADED:
        if reason := missing(kind):
            print(f"{kind}: cannot run: {reason}")
            return 1
        folder = build(kind)
        for name, command, variables in passes(kind, options.arguments):
            status, reports = run(kind, command, folder / "reports", folder, **variables)
            print(f"{kind}, {name}: exit status {status}, {'reports:' if reports else 'no reports'}\n{reports}", flush=True)
            failed |= bool(status or reports)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
