"""python bench/run.py [op ...] [--json F] [--threads 1 2] [--quick] [--scaling] [--device cuda] [--compiled only]

For every case: all results are checked against the expected ones first (a wrong run is reported and not timed), then ours and the
baselines take turns in one process. Printed: medians, the ratio to the fastest baseline of the same run, the share of what the machine
allows (bytes over the measured copy bandwidth of that footprint, operations over the measured matrix rate).
"""

import argparse
import datetime
import gc
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import op_names

HERE = Path(__file__).parent
PEERS = ("diffusers", "normflows", "pyro-ppl", "pandas", "polars", "scipy")


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    if len(args.threads) > 1:  # thread counts are fixed when libraries load, so each has a process of its own
        report = _one_process_each(args)
    else:
        _limit_threads(args.threads[0])
        report = measure(args)
    _save(args, report)
    return 1 if any(OURS in r["rejected"] for r in report["results"]) else 0


def _save(args: argparse.Namespace, report: dict[str, Any]) -> None:
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        part = args.json.with_name(f".{args.json.name}")
        part.write_text(json.dumps(report, indent=1) + "\n")
        part.replace(args.json)  # whole, whenever the run is cut short


OURS = "ordkernels"  # as in cases, which is imported after the threads are set


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench/run.py", description="Measure the kernels against their peers.")
    parser.add_argument("ops", nargs="*", metavar="op", help=f"a file of bench/cases; default: all, {', '.join(op_names.NAMES)}")
    parser.add_argument("--json", type=Path, metavar="F", help="write all numbers there")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N", help="default 1")
    parser.add_argument("--quick", action="store_true", help="the small cases alone")
    parser.add_argument("--scaling", action="store_true", help="time per row as rows, layers and columns grow, instead of the comparison")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="timing budget of a case (default 2)")
    parser.add_argument("--compiled", choices=("yes", "no", "only"), default="yes", help="torch.compile: beside others, left out, alone")
    parser.add_argument("--lines", type=Path, metavar="F", help="add a line of JSON for each case to this file, as soon as it is measured")
    args = parser.parse_args(argv)
    args.ops = args.ops or list(op_names.NAMES)
    for op in args.ops:
        op_names.check(op)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    if min(args.threads) < 1:
        parser.error(f"--threads: expected numbers from 1 up, got {args.threads}")
    return args


def _one_process_each(args: argparse.Namespace) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for n in args.threads:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "r.json")
            flags = [f for f, on in (("--quick", args.quick), ("--scaling", args.scaling)) if on] + ["--compiled", args.compiled]
            flags += ["--lines", str(args.lines)] if args.lines else []
            command = [sys.executable, str(HERE / "run.py"), *args.ops, "--threads", str(n), "--json", str(out), *flags]
            subprocess.run([*command, "--device", args.device, "--seconds", str(args.seconds)], check=False)
            if not out.exists():
                raise SystemExit(f"the run with {n} threads wrote no results")
            report = json.loads(out.read_text())
        if merged:
            for key in ("results", "scaling", "limits"):
                merged[key] += report[key]
        else:
            merged = report
    return merged | {"command": _command(args)}


def _limit_threads(n: int) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "ORDKERNELS_NUM_THREADS"):
        os.environ[name] = str(n)
    import torch

    torch.set_num_threads(n)


def _command(args: argparse.Namespace) -> str:
    return "python bench/run.py " + shlex.join(args.argv)


# ------------------------------------------------------------------------------------------------------ measure


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import cases
    import torch

    from ordkernels.testing import timing

    size: cases.Size = "quick" if args.quick else "full"
    if os.environ.get("ORDKERNELS_FAKE_GPU") == "1":  # a dry run of what a GPU machine does
        import _fake_gpu

        size = _fake_gpu.install()
    timing.keep_memory_warm()
    rates = timing.gemm_rate(args.device)
    copy = timing.copy_bandwidth(1 << 29 if args.device == "cpu" else 1 << 33, args.device)
    report = about(args.device) | {
        "command": _command(args),
        "limits": [{"threads": args.threads[0], "copy_GBs": copy / 1e9, **{f"gemm_{k}_GFLOPs": v / 1e9 for k, v in rates.items()}}],
        "results": [],
        "scaling": [],
    }
    about_limits = f"copy {copy / 1e9:.1f} GB/s, GEMM {rates['float32'] / 1e9:.0f} GFLOP/s"
    print(f"{report['device']}, {report['isa']}, threads {args.threads[0]}; {about_limits}")
    for op in args.ops:
        if args.scaling:
            for scaling in cases.scalings(op, args.device, size):
                report["scaling"].append(_scale(scaling, args))
                _save(args, report)
        else:
            for case in cases.cases(op, args.device, size):
                case.runs = {name: run for name, run in case.runs.items() if _wanted(name, args.compiled)}
                row = _run_safely(case, args.seconds, rates["float32"]) | {"threads": torch.get_num_threads()}
                report["results"].append(row)
                _print(row)
                _save(args, report)  # after each: a long run may be cut short
                if args.lines:
                    with args.lines.open("a") as file:
                        file.write(json.dumps({"device": report["device"], **row}) + "\n")
                del case
                gc.collect()
    return report


def _wanted(name: str, compiled: str) -> bool:
    return compiled == "yes" or name == OURS or name.startswith("compile") == (compiled == "only")


def _run_safely(case: Any, seconds: float, flop_rate: float) -> dict[str, Any]:
    """A case that does not fit a GPU's memory, say, does not stop the rest; on a CPU an error is one of this program."""
    try:
        return run_case(case, seconds, flop_rate)
    except Exception as e:
        if case.device == "cpu":
            raise
        return _row(case, {}, {OURS: f"{type(e).__name__}: {e}".splitlines()[0][:200]})


def about(device: str) -> dict[str, Any]:
    import importlib.metadata

    import torch

    from ordkernels import _info

    versions = _info.versions()
    for peer in PEERS:
        try:
            versions[peer] = importlib.metadata.version(peer)
        except importlib.metadata.PackageNotFoundError:
            versions[peer] = "not installed"
    versions["ordkernels"] = versions["ordkernels"].split(" ")[0]  # without the folder
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{_info.cpu_name()}, {os.cpu_count()} cores",
        "isa": "sm_{}{}".format(*torch.cuda.get_device_capability()) if device == "cuda" else _info.isa_in_use() or "no native kernels",
        "versions": versions,
        "platform": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": os.getloadavg()[0],
    }


def run_case(case: Any, seconds: float, flop_rate: float) -> dict[str, Any]:
    """Check the results, time what is right, compare."""
    from ordkernels.testing import timing

    errors, rejected = check(case)
    runs = {name: run for name, run in case.runs.items() if name in errors}
    row = _row(case, errors, rejected)
    if OURS not in runs:
        return row
    if case.device == "cuda":
        runs, row["not_graphed"] = _graphs(runs)
        times = timing.interleaved_cuda(runs, seconds=seconds)
        row["launch_us"] = timing.launch_overhead(case.runs[OURS]).median * 1e6
    else:
        slow = any(_once(run) > 1.0 for run in runs.values())
        times = timing.interleaved(runs, seconds=seconds, rounds=(3, 60), warm=0 if slow else 2)
        row["cold_ms"] = timing.cold(case.runs[OURS]).median * 1e3
    row["ms"] = {name: {"median": t.median * 1e3, "low": t.low * 1e3, "high": t.high * 1e3, "n": t.n} for name, t in times.items()}
    ours = times[OURS].median
    bandwidth = timing.copy_bandwidth(case.bytes, case.device, seconds=0.2)
    limit = max(case.bytes / bandwidth, case.flops / flop_rate)
    baselines = {name: t.median for name, t in times.items() if name != OURS and name not in case.context}
    row |= {"limit_ms": limit * 1e3, "limit_by": "bytes" if case.bytes / bandwidth >= case.flops / flop_rate else "operations"}
    row |= {"share_of_limit": limit / ours, "GBs": case.bytes / ours / 1e9}
    if baselines:
        best = min(baselines, key=baselines.__getitem__)
        row |= {"best_baseline": best, "ratio": baselines[best] / ours}
    row["targets"] = [_judge(target, case, row, times) for target in case.targets]
    return row


def _row(case: Any, errors: dict[str, float], rejected: dict[str, str]) -> dict[str, Any]:
    return {
        "op": case.op, "case": case.name, "bytes": case.bytes, "flops": case.flops, "errors": errors, "rejected": rejected,
        "missing": case.missing, "context": list(case.context), "targets": [],
        **({"tied": case.tied} if case.tied else {}),
    }  # fmt: skip


def check(case: Any) -> tuple[dict[str, float], dict[str, str]]:
    """(run -> error) of those that are right, and (run -> why) of the others."""
    right: dict[str, float] = {}
    wrong: dict[str, str] = {}
    expected = case.expected_values()
    for name in case.runs:
        try:
            error = case.error(name, expected)
        except Exception as e:  # a baseline may raise anything
            wrong[name] = f"{type(e).__name__}: {e}".splitlines()[0][:200]
            continue
        tolerance = case.tolerances.get(name, case.tolerance)
        if error <= tolerance:
            right[name] = error
        else:
            wrong[name] = f"wrong: error {error:.2g} of the largest value, over {tolerance:g}"
    return right, wrong


def _once(run: Any) -> float:
    import time

    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _graphs(runs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Every run as a CUDA graph, so that device time is what is compared; those that cannot be captured stay as they are."""
    import torch

    from ordkernels.testing import timing

    out, why = {}, {}
    for name, run in runs.items():
        try:
            out[name] = timing.graphed(run)
        except Exception as e:
            torch.cuda.synchronize()
            out[name], why[name] = run, f"{type(e).__name__}: {e}".splitlines()[0][:200]
    return out, why


def _judge(target: Any, case: Any, row: dict[str, Any], times: dict[str, Any]) -> dict[str, Any]:
    from ordkernels.testing import timing

    value: float | None
    if target.against == "best baseline":
        value = row.get("ratio")
    elif target.against == "limit":
        value = row["share_of_limit"]
    elif target.against == "memory" and "eager" not in case.runs:
        value = None
    elif target.against == "memory":
        ours, eager = (timing.peak_extra_memory(case.runs[name], case.device) for name in (OURS, "eager"))
        row["peak_extra_bytes"] = {OURS: ours, "eager": eager}
        value = ours / eager if ours is not None and eager else None
        return {"text": target.text, "value": value, "met": value is not None and value <= target.factor}
    else:
        value = times[target.against].median / times[OURS].median if target.against in times else None
    return {"text": target.text, "value": value, "met": value is not None and value >= target.factor}


def _scale(scaling: Any, args: argparse.Namespace) -> dict[str, Any]:
    from ordkernels.testing import timing

    nanoseconds = {}
    time_of = timing.interleaved_cuda if args.device == "cuda" else timing.interleaved
    for n in scaling.sizes:
        run = scaling.make(n)
        took = time_of({"run": run}, seconds=min(args.seconds, 1.0))["run"].median
        nanoseconds[n] = took / scaling.per(n) * 1e9
        del run
        gc.collect()
    line = ", ".join(f"{n:g}: {t:.3g}" for n, t in nanoseconds.items())
    print(f"{scaling.op} {scaling.name}: ns per row (layer, column) by {scaling.axis}: {line}", flush=True)
    return {"op": scaling.op, "name": scaling.name, "axis": scaling.axis, "threads": args.threads[0], "ns": nanoseconds}


# -------------------------------------------------------------------------------------------------------- print


def _print(row: dict[str, Any]) -> None:
    print(f"\n{row['op']}: {row['case']}   [{row['threads']} thread{'s' * (row['threads'] > 1)}]")
    for name, t in sorted(row.get("ms", {}).items(), key=lambda item: item[1]["median"]):
        ratio = t["median"] / row["ms"][OURS]["median"]
        note = " (for context)" if name in row["context"] else ""
        print(f"  {name + note:<36}{t['median']:11.4f} ms   x{ratio:<8.2f} [{t['low']:.4f}, {t['high']:.4f}] n={t['n']}")
    for name, why in (*row["rejected"].items(), *row["missing"].items()):
        print(f"  {name:<36}not timed: {why}")
    if "ms" in row:
        cold = f", cold {row['cold_ms']:.4f} ms" if "cold_ms" in row else f", launch {row['launch_us']:.1f} us"
        if "not_graphed" in row:
            cold += f", in a CUDA graph: {row['not_graphed'].get(OURS, 'yes')}"
        print(f"  limit {row['limit_ms']:.4f} ms by {row['limit_by']}: {row['share_of_limit']:.0%} of it, {row['GBs']:.1f} GB/s{cold}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
