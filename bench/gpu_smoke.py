"""Every GPU kernel once on small and odd shapes, its results checked: a line of JSON for each case, as soon as it is known.

python bench/gpu_smoke.py [op ...]                  on a GPU, all in this process: for compute-sanitizer
python bench/gpu_smoke.py --processes 12            a process for each op and backend: a crash costs one op, and 12 compile at once
TRITON_INTERPRET=1 python bench/gpu_smoke.py --device cpu      the same calls in Triton's interpreter
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import op_names

ROOT = Path(__file__).parents[1]
BACKENDS = ("triton", "cuda")
PUBLIC = {"rng": "normal"}  # file of bench/cases -> a function in it, where the names differ


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    jobs = [(backend, op) for op in args.ops for backend in args.backends if has_kernel(backend, op)]
    if args.processes:
        lines = _in_processes(jobs, args)
    else:
        lines = [_written(line, args) for job in jobs for line in run(*job, args.device, args.size)]
    wrong, skipped = ([line for line in lines if line["ok"] is ok] for ok in (False, None))
    for line in wrong:
        print(f"wrong: {line['op']} on {line['backend']}, {line['case']}: {line['why']}")
    for backend, why in sorted({(line["backend"], line["why"]) for line in skipped}):
        print(f"skipped: {backend}: {why}")
    print(f"{len(lines) - len(wrong) - len(skipped)} cases are right, {len(wrong)} wrong, {len(skipped)} skipped")
    return 1 if wrong or len(skipped) == len(lines) else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench/gpu_smoke.py", description="Check every GPU kernel on small cases.")
    parser.add_argument("ops", nargs="*", metavar="op", help="files of bench/cases; default: all that have a GPU kernel")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--size", choices=("tiny", "quick"), default="tiny")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="so many at a time; default 0: in this one")
    parser.add_argument("--seconds", type=float, default=40, metavar="S", help="limit of a process (default 40)")
    parser.add_argument("--json", type=Path, metavar="F", help="add the lines to this file; default: print them")
    args = parser.parse_args(argv)
    for op in args.ops:
        op_names.check(op)
    args.ops = args.ops or list(op_names.NAMES)
    return args


def has_kernel(backend: str, op: str) -> bool:
    return (ROOT / "ordkernels" / f"_{backend}" / f"{op}.py").exists()


def _written(line: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    if args.json:
        with args.json.open("a") as file:  # one short write: lines of several processes do not mix
            file.write(json.dumps(line) + "\n")
    else:
        print(json.dumps(line), flush=True)
    return line


def _in_processes(jobs: list[tuple[str, str]], args: argparse.Namespace) -> list[dict[str, Any]]:
    running: set[subprocess.Popen[str]] = set()
    with ThreadPoolExecutor(args.processes) as pool:
        try:
            return [line for found in pool.map(lambda job: _in_a_process(job[0], job[1], args, running), jobs) for line in found]
        except KeyboardInterrupt:  # out of time: no process is left behind on the GPU
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
            raise


def _in_a_process(backend: str, op: str, args: argparse.Namespace, running: set[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """The lines that a process of its own printed, and one more if it did not end well."""
    command = [sys.executable, __file__, op, "--backends", backend, "--device", args.device, "--size", args.size]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running.add(process)
    try:
        out, errors = process.communicate(timeout=args.seconds)
        why = f"exit {process.returncode}: {' | '.join(errors.strip().splitlines()[-2:])[:300]}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        why = f"over {args.seconds:g} s"
    running.discard(process)
    lines = [json.loads(text) for text in out.splitlines() if text.startswith("{") and text.endswith("}")]
    if process.returncode and not any(line["ok"] is not True for line in lines):
        lines.append({"backend": backend, "op": op, "case": "the process", "ok": False, "why": why})
    return [_written(line, args) for line in lines]


def run(backend: str, op: str, device: str, size: Any) -> Iterator[dict[str, Any]]:
    """A line for each case: ours on this backend against the expected results."""
    import cases
    import torch

    import ordkernels

    about = {"backend": backend, "op": op}
    if reasons := ordkernels.available_backends(PUBLIC.get(op, op))[backend]:
        yield about | {"case": "all", "ok": None, "why": "; ".join(reasons)}
        return
    if device == "cpu" and backend == "triton":
        from ordkernels.testing.interpreter import vectorize_xor

        vectorize_xor()
    torch.manual_seed(0)
    if op in ("planar_flow", "planar_flow_inverse"):
        # Rows: the interpreter runs one program after the other.
        for shape in ((1, 1, 1, 1), (5, 3, 2, 7), (129 if device == "cuda" else 17, 1, 4, 64)):
            yield about | _checked(f"several samples, {shape}", 1e-2, partial(samples_error, op, backend, device, *shape))
    try:
        for case in cases.cases(op, device, size):
            case.runs = {cases.OURS: case.runs[cases.OURS]}
            tolerance = case.tolerances.get(cases.OURS, case.tolerance)
            yield about | _checked(case.name, tolerance, partial(case_error, case, backend)) | {"tied": sum(case.tied.values())}
    except Exception as error:  # while a case is made: of a GPU that is in an error state, say
        yield about | {"case": "the next one", "ok": False, "why": _first_line(error)}


def case_error(case: Any, backend: str) -> float:
    import cases

    import ordkernels

    expected = case.expected_values()
    with ordkernels.use_backend(backend):
        return case.error(cases.OURS, expected)


def _checked(name: str, tolerance: float, error_of: Callable[[], float]) -> dict[str, Any]:
    """With the seconds that it took, compilation included."""
    began = time.perf_counter()
    try:
        error = error_of()
    except Exception as why:
        ok = None if "cannot run on the backend" in str(why) else False  # a call that its kernels do not take, and say so
        return {"case": name, "ok": ok, "why": _first_line(why)}
    seconds = round(time.perf_counter() - began, 3)
    why = "" if error <= tolerance else f"error {error:.3g} of the largest value, over {tolerance:g}"
    return {"case": name, "ok": not why, "error": error, "tolerance": tolerance, "seconds": seconds, "why": why}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def samples_error(name: str, backend: str, device: str, B: int, N: int, K: int, D: int) -> float:
    """Several samples per set of parameters, which no benchmark has: the largest error of outputs and gradients."""
    import torch

    import ordkernels
    from ordkernels import ops

    z, u, w = (torch.randn(*s, device=device, requires_grad=True) for s in ((B, N, D), (B, K, D), (B, K, D)))
    b = torch.randn(B, K, device=device, requires_grad=True)
    results = []
    for where in (backend, "reference"):
        with ordkernels.use_backend(where):
            out, log_det = getattr(ops, name)(z, u, w, b)
            results.append((out.detach(), log_det.detach(), *torch.autograd.grad((out.sum(), log_det.sum()), (z, u, w, b))))
    return max(float((got - expected).abs().max() / expected.abs().max().clamp(min=1)) for got, expected in zip(*results, strict=True))


if __name__ == "__main__":
    sys.exit(main())
