"""python bench/table.py bench/results/a.json [b.json ...]            Markdown tables of bench/run.py's results
python bench/table.py bench/results/*.json --readme README.md --all bench/RESULTS.md
                                                                    all of them to the second; a line per case, and the models' main
                                                                    tables, between the README's bench markers
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
OURS = "ordkernels"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("bench/table.py", description="Markdown tables of benchmark results.")
    parser.add_argument("results", nargs="+", type=Path, metavar="F")
    parser.add_argument("--readme", type=Path, metavar="F", help="rewrite the section between its bench markers")
    parser.add_argument("--all", type=Path, metavar="F", help="with --readme: write every table there")
    args = parser.parse_args(argv)
    reports = [json.loads(path.read_text()) for path in args.results]
    text = "\n\n".join(filter(None, map(rendered, reports)))
    if not args.readme:
        print(text)
        return 0
    if args.all:
        args.all.write_text(
            f"# Measurements\n\nMade by `python bench/table.py bench/results/*.json --readme README.md --all bench/RESULTS.md`.\n\n{text}\n"
        )
    main_ones = [r for path, r in zip(args.results, reports, strict=True) if not r.get("results") and "ablations" not in path.stem]
    text = "\n\n".join(filter(None, [*summaries(reports), *map(rendered, main_ones)]))
    readme = args.readme.read_text()
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise SystemExit(f"{args.readme}: expected one {BEGIN} and one {END}")
    before, rest = readme.split(BEGIN)
    if not any("cuda" in r.get("command", "") for r in reports):
        text += "\n\nOn a GPU: not yet measured (`bash bench/gpu.sh OUTDIR` measures it)."
    args.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    return 0


def summaries(reports: list[dict[str, Any]]) -> list[str]:
    """A table per machine: a line per case, its time on the fewest threads and its ratio to the best rival on each number of them."""
    tables = []
    machines: dict[str, list[dict[str, Any]]] = {}
    for r in reports:
        if r.get("results"):
            machines.setdefault(f"{r['device']}, {r['isa']}, torch {r['versions']['torch']}", []).extend(r["results"])
    for device, rows in machines.items():
        counts = sorted({row["threads"] for row in rows})
        heads = [f"ratio, {n} thread{'s' * (n > 1)}" for n in counts]
        lines = [
            f"{device}. Other rivals, limits, commands and dates: `bench/RESULTS.md`.",
            "",
            f"| case | ordkernels, ms | best rival, ms | {' | '.join(heads)} | target |",
            "|---" * (4 + len(counts)) + "|",
        ]
        cases: dict[str, dict[int, dict[str, Any]]] = {}
        for row in rows:
            cases.setdefault(f"{row['op']}: {row['case']}", {})[row["threads"]] = row
        lines += [_summary(name, by_threads, counts) for name, by_threads in cases.items()]
        tables.append("\n".join(lines))
    return tables


def _summary(name: str, by_threads: dict[int, dict[str, Any]], counts: list[int]) -> str:
    timed = {n: row for n, row in by_threads.items() if "ms" in row}
    if not timed:
        return f"| {name} | not timed |" + " |" * (2 + len(counts))
    first = timed[min(timed)]
    best = first.get("best_rival")
    ratios = [f"{timed[n]['ratio']:.2f}x" if n in timed and timed[n].get("best_rival") else "" for n in counts]
    met: dict[str, list[str]] = {}
    for row in timed.values():
        for t in row["targets"]:
            met.setdefault(t["text"], []).append("met" if t["met"] else "missed")
    targets = "; ".join(f"{text}: {outcomes[0] if len(set(outcomes)) == 1 else ' / '.join(outcomes)}" for text, outcomes in met.items())
    ours, rival = _time(first["ms"][OURS]["median"]), f"{best} {_time(first['ms'][best]['median'])}" if best else ""
    return f"| {name} | {ours} | {rival} | {' | '.join(ratios)} | {targets} |"


def rendered(report: dict[str, Any]) -> str:
    """One report as Markdown, whichever program wrote it; "" where there is nothing in it to show."""
    if report.get("models"):
        return clicks(report) if report["about"].get("kind") == "clicks" else quality(report)
    if report.get("results"):
        return table(report)
    data = {name: entry for name, entry in report.items() if isinstance(entry, dict) and entry.get("models")}
    return "\n\n".join(data_set(name, entry) for name, entry in data.items())


def data_set(name: str, entry: dict[str, Any]) -> str:
    """One data set of bench/quality_diffor.py's reports: a line per model, means over the seeds."""
    about = entry["about"]
    lines = [
        f"{name}: {about['scores']}; {about['draws']} draws; {about['device']}.",
        f"`{about['command']}`",
        "",
        "| model | seeds | MAE | XAUC | SRCC | CRPS | 80 % interval holds | training, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, result in entry["models"].items():
        m, s = result["mean"], result["spread"]
        srcc = f"{m['srcc']:.3f}" if math.isfinite(m.get("srcc", math.nan)) else ""
        held = f"{m['interval80_holds']:.1%}" if "interval80_holds" in m else ""
        scores = (f"{m[key]:.4g} ± {s[key] / 2:.2g}" for key in ("mae", "xauc"))
        crps = f"{m['crps']:.4g} ± {s['crps'] / 2:.2g}"
        cells = (model, len(result["runs"]), *scores, srcc, crps, held, f"{m['train_s']:.0f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def table(report: dict[str, Any]) -> str:
    """One report: the machine, then a line per case and thread count."""
    versions = report["versions"]
    limits = "; ".join(f"{x['threads']} thread{'s' * (x['threads'] > 1)}: copy {x['copy_GBs']:.0f} GB/s, fp32 GEMM "
                       f"{x['gemm_float32_GFLOPs']:.0f} GFLOP/s" for x in report["limits"])  # fmt: skip
    lines = [
        f"{report['device']}, {report['isa']}, torch {versions['torch']}, {report['date']}. Measured limits: {limits}.",
        f"`{report['command']}`",
        "",
        "| case | threads | ordkernels, ms | best rival, ms | ratio | others, ms | share of limit | target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in report["results"]])


def quality(report: dict[str, Any]) -> str:
    """One report of bench/quality.py: a line per model, means over the seeds."""
    about = report["about"]
    lines = [
        f"KuaiRand-Pure, {about['train_rows']:,} training and {about['test_rows']:,} test rows, {about['epochs']} epochs, {about['date']}; "
        f"means over seeds, ± half the range; {about['units']}.",
        f"`{about['command']}`",
        "",
        "| model | seeds | MAE, s | XAUC | PDF-U | PDF-I | CRPS, s | 80 % interval holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in report["models"].items():
        m, s = entry["mean"], entry["spread"]
        held = f"{m['interval80_holds']:.1%}" if "interval80_holds" in m else ""
        lines.append(
            f"| {name} | {len(entry['runs'])} | {m['mae']:.2f} ± {s['mae'] / 2:.2f} | {m['xauc']:.4f} ± {s['xauc'] / 2:.4f} "
            f"| {m['pdf_u']:.3f} | {m['pdf_i']:.3f} | {m['crps']:.2f} ± {s['crps'] / 2:.2f} | {held} |"
        )
    return "\n".join(lines)


def clicks(report: dict[str, Any]) -> str:
    """One report of bench/quality_ifusion.py: a line per model, means over the seeds."""
    about, rows = report["about"], report["about"]["rows"]
    lines = [
        f"{about['data']}, clicks: trained on {rows['trained_on']:,} of {rows['train']:,} rows, scored on {rows['scored']:,} of "
        f"{rows['test']:,}, {about['epochs']} epoch{'s' * (about['epochs'] != 1)}; means over seeds, ± half the range; RelaImpr over the "
        f"pooling of the same seed; {about['device']}, {about['date']}.",
        f"`{about['command']}`",
        "",
        "| model | seeds | AUC | RelaImpr over average pooling | over attention pooling | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in report["models"].items():
        if not entry["runs"]:
            continue
        m, s = entry["mean"], entry["spread"]
        over = (f"{m[key]:+.2%} ± {s[key] / 2:.2%}" for key in ("over_average", "over_attention"))
        cells = (name, len(entry["runs"]), f"{m['auc']:.4f} ± {s['auc'] / 2:.4f}", *over, f"{m['train_s']:.0f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    name = f"{row['op']}: {row['case']}"
    if "ms" not in row:
        return f"| {name} | {row['threads']} | not timed: {row['rejected'].get(OURS, 'no result')} | | | | | |"
    ms = {run: t["median"] for run, t in row["ms"].items()}
    best = row.get("best_rival")
    others = sorted((n for n in ms if n not in (OURS, best)), key=ms.__getitem__)
    targets = "; ".join(f"{t['text']}: {'met' if t['met'] else 'missed'}{_value(t)}" for t in row["targets"])
    cells = (
        name,
        row["threads"],
        _time(ms[OURS]),
        f"{best} {_time(ms[best])}" if best else "",
        f"{row['ratio']:.2f}x" if best else "",
        ", ".join(f"{n} {_time(ms[n])}" for n in others),
        f"{row['share_of_limit']:.1%}" if row["share_of_limit"] < 0.1 else f"{row['share_of_limit']:.0%}",
        targets,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _value(target: dict[str, Any]) -> str:
    return "" if target["value"] is None else f" ({target['value']:.2g})"


def _time(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
