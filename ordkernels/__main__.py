"""`python -m ordkernels fit | score | report | serve | info | demo | bench | score-file`."""

import argparse
import contextlib
import json
import os
import runpy
import sys
from pathlib import Path

from .commands import fit, report, score, serve
from .commands._options import Help
from .commands._processes import torchrun_rank
from .scores.files import add_arguments as add_score_arguments
from .scores.files import file_first

_ON_TABLES = {"fit": fit.main, "score": score.main, "report": report.main, "serve": serve.main}
_EPILOG = """\
from a table to calibrated predictions:
  python -m ordkernels fit may.parquet --target seconds --user user --item video --time when --out model/
  python -m ordkernels score model/ june.parquet predictions.csv
  python -m ordkernels report predictions.csv --truth seconds

`python -m ordkernels COMMAND --help` says more."""


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:  # its arguments are bench/run.py's own
        return _bench(argv[1:])
    if argv[:1] in (["score-file"], ["report"]):
        argv = [argv[0], *file_first(argv[1:])]
    args = _parser().parse_args(argv)
    try:
        code = {"info": _info, "demo": _demo, "score-file": _score_file}.get(args.command, _on_table)(args)
        print(end="", flush=True)
    except OSError as error:
        if error.filename is not None:
            raise
        return _cannot_write(args.command, error)  # of a stream: a pipe whose reader is gone, as with `| head`; a full disk
    return code


def _cannot_write(command: str, error: OSError) -> int:
    """Say so, and let the interpreter not write there again when it ends."""
    with contextlib.suppress(OSError):
        print(f"{command}: expected an output that can be written, got {error.strerror}", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m ordkernels", usage="python -m ordkernels COMMAND ...", formatter_class=Help, epilog=_EPILOG,
        description="Kernels, samplers and models for generative ordinal regression.",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for command in (fit, score, report, serve):
        command.add_parser(commands)

    info = commands.add_parser("info", help="versions, machine, compiled parts; which backend serves each op, and why not the others")
    form = info.add_mutually_exclusive_group()
    form.add_argument("--verbose", action="store_true", help="every detail, each op with its reasons in full")
    form.add_argument("--json", action="store_true", help="every detail as JSON")

    demo = commands.add_parser("demo", help="train every model on real data, score them side by side, and time the kernels")
    demo.add_argument("--quick", action="store_true", help="less training, fewer rows: under 4 minutes instead of 15 on 2 cores")
    demo.add_argument(
        "--data",
        metavar="NAME|PATH",
        help="kuairand (default), abalone, wine, cdnow, another ordinal table, or a folder with KuaiRand-Pure",
    )
    demo.add_argument("--models", nargs="+", metavar="NAME", help="only these (an unknown name lists them all)")
    demo.add_argument("--fresh", action="store_true", help="train again what an earlier run has finished and saved")
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="the same seed gives the same numbers (default 0)")
    demo.add_argument(
        "--out", type=Path, metavar="DIR", help="where results and plots go (default demo_report, for a table demo_report/NAME)"
    )

    commands.add_parser("bench", help="measure the kernels against their peers; from a checkout: the same as `python bench/run.py`")

    score_file = commands.add_parser("score-file", help="scores of the predictions in a CSV, NPZ or Parquet file, of any size")
    add_score_arguments(score_file)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {text!r}")
    return int(text)


def _info(args: argparse.Namespace) -> int:
    from . import _info

    try:
        found = _info.collect()
    except ImportError as error:  # a compiled part of another version
        print(f"info: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2) if args.json else _info.text(found) if args.verbose else _info.table(found))
    return 0


def _demo(args: argparse.Namespace) -> int:
    try:
        from . import demo

        report = demo.run(args.data, args.out, args.seed, args.quick, args.models, args.fresh)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return int(any(result["status"] == "failed" for result in report["models"].values()))


def _score_file(args: argparse.Namespace) -> int:
    from .scores import files

    return files.main(args)


def _on_table(args: argparse.Namespace) -> int:
    try:
        return _ON_TABLES[args.command](args)
    except KeyboardInterrupt:
        print(f"\n{args.command}: interrupted", file=sys.stderr)
        return 130
    except (OSError, ImportError, MemoryError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise  # of the output stream
        rank = f" (process {torchrun_rank()})" if torchrun_rank() else ""
        print(f"{args.command}{rank}:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)  # on one line
        return 2


def _bench(argv: list[str]) -> int:
    script = Path(__file__).parents[1] / "bench" / "run.py"
    if not script.is_file():
        print(
            f"bench: expected a checkout of the repository, with {script.name} at {script}, got an installed package without it.\n"
            "The benchmarks are not part of the wheel: clone the repository and run `python -m ordkernels bench` there.",
            file=sys.stderr,
        )
        return 2
    return runpy.run_path(str(script), run_name="bench_run")["main"](argv)


if __name__ == "__main__":
    sys.exit(main())
