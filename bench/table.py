"""python bench/table.py                     rewrite bench/RESULTS.md, bench/QUALITY.md and the README's headline rows from bench/results
python bench/table.py --check             the same without writing: exit with 1 if a file is out of date
python bench/table.py a.json [b.json ...] print the tables of these files

The texts before the tables are bench/results/about_speed.md and bench/results/about_quality.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"  # of a table of the README, by its name
OURS = "ordkernels"
OTHER_MACHINES = {"zen5": "Zen 5, AVX-512", "avx2": "AVX2"}  # folders of bench/results, measured on earlier states of the kernels
LEVEL = 1.05  # below this a speedup counts as level or a loss

Report = dict[str, Any]
Row = dict[str, Any]


class Headline(NamedTuple):
    """A row of the README: which measured case, and what to call it there."""

    case: str
    what: str


HEADLINES = (
    Headline("planar_flow: forward + backward B=65536 K=4 D=64", "`planar_flow`, 4 layers on 65,536 × 64, forward and backward"),
    Headline("denoise_chain: B=1 D=64 hidden=256 steps=50", "`denoise_chain`, 50 diffusion steps for one request"),
    Headline("value_decode: B=1 d=64 layers=2 V=64 T=12, no end", "`value_decode`, 12 tokens for one request"),
    Headline("segment_quantiles: N=10000000 G=200000 L=20", "`segment_quantiles`, 10 million values in 200,000 groups"),
    Headline("xauc: N=10000000", "`xauc`, exact, 10 million rows"),
)

MODELS = ("FlowTime", "DiffoR", "DiffoR, Transformer", "GR", "iFusion")  # rows of the README's table of whole jobs

FUNCTIONS = (  # rows of the README's table of swapped functions
    Headline("swap_functions: scipy kendalltau tied N=1000000", "`scipy.stats.kendalltau`, 1 million rows with ties"),
    Headline("swap_functions: torchmetrics kendall_rank_corrcoef N=10000", "torchmetrics `kendall_rank_corrcoef`, 10,000 rows (all pairs)"),
    Headline(
        "swap_functions: GR authors xauc_score N=100000", 'the GR or CWM authors\' `xauc_score`, by `swap_in("metrics")`, 100,000 rows'
    ),
    Headline(
        "swap_functions: properscoring crps_ensemble B=10000 members=100", "properscoring `crps_ensemble` without Numba, 10,000 × 100"
    ),
    Headline(
        "swap_functions: scoringrules crps_ensemble qd B=10000 members=100",
        "scoringrules `crps_ensemble`, its default estimator, 10,000 × 100",
    ),
    Headline("swap_functions: xskillscore crps_ensemble B=10000 members=100", "xskillscore `crps_ensemble`, 10,000 × 100"),
    Headline(
        "swap_functions: pandas groupby(...).quantile N=1000000 G=20000, 1 level", "pandas `groupby(...).quantile`, 1 level, 20,000 groups"
    ),
    Headline("swap_functions: pandas groupby(...).quantile N=1000000 G=20000, 20 levels", "the same, 20 levels"),
)

QUALITY = {  # file in bench/results -> heading
    "quality_comparison": "The comparison: every model by one recipe, test rows",
    "quality_comparison_validation": "What it was chosen on: validation rows",
    "quality_comparison_gap": "A gap in time: KuaiRand's last two training days, by a fit on the first three",
    "quality_flowtime": "FlowTime: watch time",
    "quality_flowtime_ablations": "FlowTime: ablations",
    "quality_curve": "FlowTime: training with the kernels and with plain torch",
    "quality_diffor": "DiffoR: ordinal tables, watch time and lifetime value",
    "quality_diffor_ablations": "DiffoR: ablations",
    "quality_gr": "GR: watch time and lifetime value",
    "quality_gr_ablations": "GR: ablations",
    "quality_ifusion": "iFusion: clicks, test rows",
    "quality_ifusion_validation": "iFusion: clicks, validation rows",
    "quality_ifusion_movielens": "iFusion: MovieLens, test rows",
    "quality_ifusion_movielens_validation": "iFusion: MovieLens, validation rows",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("bench/table.py", description="Markdown tables of benchmark results.")
    parser.add_argument("results", nargs="*", type=Path, metavar="F", help="print the tables of these files; none: rewrite the documents")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a document is out of date")
    args = parser.parse_args(argv)
    if args.results:
        print("\n\n".join(filter(None, (rendered(read(path)) for path in args.results))))
        return 0
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of date' if args.check else 'written'}")
        if not args.check:
            path.write_text(documents()[path])
    return int(args.check and bool(stale))


def documents() -> dict[Path, str]:
    """Path -> text of every generated document."""
    speed = [read(path) for path in sorted(HERE.glob("results/cpu_*.json"))]
    tables = {"headline": headlines(speed), "models": models(speed), "functions": functions(speed)}
    return {
        HERE / "RESULTS.md": speed_document(speed),
        HERE / "QUALITY.md": quality_document(),
        ROOT / "README.md": _with_tables((ROOT / "README.md").read_text(), tables),
    }


def _with_tables(readme: str, tables: dict[str, str]) -> str:
    for name, table in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        if readme.count(begin) != 1 or readme.count(end) != 1:
            raise SystemExit(f"README.md: expected one {begin} and one {end}")
        before, rest = readme.split(begin)
        readme = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return readme


def read(path: Path) -> Report:
    return json.loads(path.read_text())


# -------------------------------------------------------------------------------------------------------- speed


def headlines(reports: list[Report]) -> str:
    """The README's rows: measured on one thread, against the fastest alternative of the same run."""
    rows = [row for report in reports for row in report["results"]]
    lines = []
    for case, what in HEADLINES:
        (row,) = (row for row in rows if _name(row) == case and row["threads"] == 1)
        ours, other = row["ms"][OURS]["median"], row["ms"][row["best_baseline"]]["median"]
        alternative = row["best_baseline"].split(",")[0].replace("compile", "torch.compile")
        lines.append((what, f"{_ms(ours)} ms", f"{alternative}: {_ms(other)} ms", f"{row['ratio']:.1f}x",
                      f"`python -m ordkernels bench {row['op']}`"))  # fmt: skip
    return markdown(("", "ordkernels", "fastest alternative", "speedup", "shown by"), lines)


def models(reports: list[Report]) -> str:
    """The README's rows of whole training steps and of scoring, on one thread."""
    rows = {_name(row): row for report in reports for row in report["results"] if row["threads"] == 1}
    lines = []
    for model in MODELS:
        step, score = (rows[f"training: {model}, {what} B=1024"] for what in ("step", "scoring, 32 draws"))
        ours, eager, compiled = (step["ms"][run]["median"] for run in (OURS, "eager", "compile"))
        memory = step["peak_extra_bytes"]["eager"] / step["peak_extra_bytes"][OURS]
        of_score = score["ms"]["eager"]["median"] / score["ms"][OURS]["median"]
        times = (f"{_ms(t)} ms" for t in (ours, eager, compiled))
        lines.append((model, *times, f"{eager / ours:.1f}x", f"{memory:.1f}x less", f"{of_score:.1f}x"))
    heads = ("a step on 1,024 rows", "ordkernels", "plain torch", "torch.compile", "speedup", "memory", "scoring, 32 draws")
    return markdown(heads, lines)


def functions(reports: list[Report]) -> str:
    """The README's rows of swapped functions, on one thread."""
    rows = {_name(row): row for report in reports for row in report["results"] if row["threads"] == 1}
    lines = []
    for case, what in FUNCTIONS:
        before, after = (rows[case]["ms"][name]["median"] for name in (rows[case]["best_baseline"], OURS))
        ratio = before / after
        lines.append((what, f"{_ms(before)} ms", f"{_ms(after)} ms", f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.1f}x"))
    return markdown(("function", "before", "after", "speedup"), lines)


def speed_document(reports: list[Report]) -> str:
    measured = [report for report in reports if report["results"]]
    parts = [(HERE / "results/about_speed.md").read_text().strip(), losses(measured), overview(measured)]
    parts += ["## Every alternative, by op", *map(speed_table, measured)]
    scaling = [entry for report in reports for entry in report["scaling"]]
    if scaling:
        parts += ["## How the time grows", scaling_table(scaling)]
    if (path := HERE / "results/serve.json").exists():
        parts += ["## Serving", serving(read(path))]
    return "\n\n".join(parts) + "\n"


def serving(report: Report) -> str:
    """What bench/serve_load.py has measured: a line per number of clients."""
    heads = ("clients", "requests", "errors", "p50", "p99", "requests a second", "server's memory, begin to end")
    lines = [
        (n, f"{run['requests']:,}", run["errors"], f"{_ms(run['p50_ms'])} ms", f"{_ms(run['p99_ms'])} ms", f"{run['requests_per_s']:.0f}",
         "{:.0f} to {:.0f} MiB".format(*run["resident_mib"]))
        for n, run in report["clients"].items()
    ]  # fmt: skip
    text = (
        f"`python bench/serve_load.py --seconds {report['seconds']:g}`: clients that each send one request of {report['rows_per_request']} "
        f"row after the other, 128 draws, on the server's {report['cores']} cores; load average at the end {report['load_average'][0]:.1f}."
    )
    return f"{text}\n\n{markdown(heads, lines)}"


def losses(reports: list[Report]) -> str:
    """Every timed case that is not faster than its fastest alternative."""
    rows = [row for report in reports for row in report["results"] if row.get("best_baseline") and row["ratio"] < LEVEL]
    lines = [(_name(row), row["threads"], row["best_baseline"], f"{row['ratio']:.2f}x") for row in rows]
    text = f"## Cases that are level or slower\n\nSpeedups under {LEVEL}x on this machine, all of them:\n\n"
    return text + markdown(("case", "threads", "fastest alternative", "speedup"), lines)


def overview(reports: list[Report]) -> str:
    """A line per case: times on one thread, speedups on each thread count and on the other machines."""
    cases: dict[str, dict[int, Row]] = {}
    for row in (row for report in reports for row in report["results"]):
        cases.setdefault(_name(row), {})[row["threads"]] = row
    counts = sorted({n for by_threads in cases.values() for n in by_threads})
    elsewhere = {label: _speedups(folder) for folder, label in OTHER_MACHINES.items()}
    heads = ["case", "ordkernels, ms", "fastest alternative, ms", *(f"speedup, {_threads(n)}" for n in counts), *elsewhere]
    lines = []
    for name, by_threads in cases.items():
        timed = {n: row for n, row in by_threads.items() if row.get("best_baseline")}
        if not timed:
            lines.append([name, "not timed", "", *[""] * (len(counts) + len(elsewhere))])
            continue
        first = timed[min(timed)]
        speedups = [f"{timed[n]['ratio']:.2f}x" if n in timed else "" for n in counts]
        other = f"{first['best_baseline']} {_ms(first['ms'][first['best_baseline']]['median'])}"
        lines.append([name, _ms(first["ms"][OURS]["median"]), other, *speedups, *(found.get(name, "") for found in elsewhere.values())])
    about = f"Times are of {_threads(counts[0])}; the last {len(elsewhere)} columns are the speedups on other machines, 1 thread."
    return f"## Overview\n\n{about}\n\n{markdown(heads, lines)}"


def _speedups(folder: str) -> dict[str, str]:
    """Case -> speedup on one thread, of another machine's results."""
    rows = (row for path in sorted(HERE.glob(f"results/{folder}/cpu_*.json")) for row in read(path)["results"])
    return {_name(row): f"{row['ratio']:.2f}x" for row in rows if row["threads"] == 1 and row.get("best_baseline")}


def speed_table(report: Report) -> str:
    """One report of bench/run.py: the machine, then a line per case and thread count."""
    limits = "; ".join(
        f"{_threads(x['threads'])}: copy {x['copy_GBs']:.0f} GB/s, fp32 GEMM {x['gemm_float32_GFLOPs']:.0f} GFLOP/s"
        for x in report["limits"]
    )
    about = f"{report['device']}, {report['isa']}, torch {report['versions']['torch']}, {report['date']}. Measured limits: {limits}."
    heads = ("case", "threads", "ordkernels, ms", "fastest alternative, ms", "speedup", "others, ms", "share of limit")
    ops = ", ".join(dict.fromkeys(row["op"] for row in report["results"]))
    return f"### {ops}\n\n{about}\n`{report['command']}`\n\n{markdown(heads, map(_speed_cells, report['results']))}"


def _speed_cells(row: Row) -> Sequence[Any]:
    if "ms" not in row:
        return _name(row), row["threads"], f"not timed: {row['rejected'].get(OURS, 'no result')}", "", "", "", ""
    ms = {run: t["median"] for run, t in row["ms"].items()}
    best = row.get("best_baseline")
    others = sorted((n for n in ms if n not in (OURS, best)), key=ms.__getitem__)
    return (
        _name(row),
        row["threads"],
        _ms(ms[OURS]),
        f"{best} {_ms(ms[best])}" if best else "",
        f"{row['ratio']:.2f}x" if best else "",
        ", ".join(f"{n} {_ms(ms[n])}" for n in others),
        f"{row['share_of_limit']:.1%}" if row["share_of_limit"] < 0.1 else f"{row['share_of_limit']:.0%}",
    )


def scaling_table(entries: list[dict[str, Any]]) -> str:
    lines = [
        (f"{e['op']}: {e['name']}", e["axis"], ", ".join(f"{int(n):,}: {ns:.3g}" for n, ns in e["ns"].items()), f"{_growth(e):.2f}x")
        for e in entries
    ]
    about = "Nanoseconds per row (or step, layer, column) as the axis grows, on one thread; growth: the largest size against the second."
    return about + "\n\n" + markdown(("case", "axis", "size: ns", "growth"), lines)


def _growth(entry: dict[str, Any]) -> float:
    ns = list(entry["ns"].values())
    return ns[-1] / ns[1]


def _name(row: Row) -> str:
    return f"{row['op']}: {row['case']}"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _ms(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"


# ------------------------------------------------------------------------------------------------------ quality


def quality_document() -> str:
    parts = [(HERE / "results/about_quality.md").read_text().strip()]
    for stem, heading in QUALITY.items():
        if not (HERE / f"results/{stem}.json").exists():
            continue
        report = read(HERE / f"results/{stem}.json")
        parts += [f"## {heading}", curve(report) if "losses" in report else rendered(report)]
    return "\n\n".join(parts) + "\n"


def rendered(report: Report) -> str:
    """One report as Markdown, whichever program wrote it; "" where there is nothing in it to show."""
    if report.get("models"):
        return clicks(report) if report["about"].get("kind") == "clicks" else watch_times(report)
    if report.get("results"):
        return speed_table(report)
    entries = {name: entry for name, entry in report.items() if isinstance(entry, dict) and entry.get("models")}
    return "\n\n".join((comparison if entry.get("kind") == "comparison" else data_set)(name, entry) for name, entry in entries.items())


def comparison(name: str, entry: dict[str, Any]) -> str:
    """One data set of bench/quality.py: a line per model, means over the seeds, differences of the first seed."""
    about, lines = entry["about"], []
    for model, result in entry["models"].items():
        m, s, against = result["mean"], result["spread"], result["runs"][0]["against"]
        cells = [f"{m[k]:.4g} ± {s[k] / 2:.2g}" if k in m else "" for k in ("mae", "xauc", "crps")]
        pit = f"{min(m['pit']):.2f} to {max(m['pit']):.2f}" if "pit" in m else ""
        differences = [_difference(against.get(k)) for k in ("mae", "xauc", "crps")]
        lines.append((model, len(result["runs"]), *cells, _coverage(m), pit, *differences, f"{m['seconds']:.0f}"))
    heads = ("model", "seeds", "MAE", "XAUC", "CRPS", "80 % interval holds", "PIT deciles", "MAE − boosting", "XAUC − boosting",
             "CRPS − boosted quantiles", "seconds")  # fmt: skip
    return (
        f"### {name}, {about['rows']} rows\n\n{about['steps']} steps, {about['draws']} draws a row; ± is half the range over the "
        f"seeds; differences with 95 % bootstrap intervals; {about['device']}, {about['date']}.\n`{about['command']}`\n\n"
        f"{markdown(heads, lines)}"
    )


def _difference(found: list[float] | None) -> str:
    return "" if found is None else f"{found[0]:+.3g} [{found[1]:+.3g}, {found[2]:+.3g}]"


def data_set(name: str, entry: dict[str, Any]) -> str:
    """One data set of the reports of bench/quality_diffor.py and quality_gr.py: a line per model, means over the seeds."""
    about = entry["about"]
    lines = []
    for model, result in entry["models"].items():
        m, s = result["mean"], result["spread"]
        mae, xauc, crps = (f"{m[key]:.4g} ± {s[key] / 2:.2g}" for key in ("mae", "xauc", "crps"))
        srcc = f"{m['srcc']:.3f}" if math.isfinite(m.get("srcc", math.nan)) else ""
        lines.append((model, len(result["runs"]), mae, xauc, srcc, crps, _coverage(m), f"{m['train_s']:.0f}"))
    heads = ("model", "seeds", "MAE", "XAUC", "SRCC", "CRPS", "80 % interval covers", "training, s")
    return f"{name}: {about['scores']}; {about['draws']} draws; {about['device']}.\n`{about['command']}`\n\n{markdown(heads, lines)}"


def watch_times(report: Report) -> str:
    """One report of bench/quality_flowtime.py: a line per model, means over the seeds."""
    about = report["about"]
    lines = []
    for name, entry in report["models"].items():
        m, s = entry["mean"], entry["spread"]
        mae, crps = (f"{m[key]:.2f} ± {s[key] / 2:.2f}" for key in ("mae", "crps"))
        xauc = f"{m['xauc']:.4f} ± {s['xauc'] / 2:.4f}"
        lines.append((name, len(entry["runs"]), mae, xauc, f"{m['pdf_u']:.3f}", f"{m['pdf_i']:.3f}", crps, _coverage(m)))
    heads = ("model", "seeds", "MAE, s", "XAUC", "PDF-U", "PDF-I", "CRPS, s", "80 % interval covers")
    return (
        f"KuaiRand-Pure, {about['train_rows']:,} training and {about['test_rows']:,} test rows, {about['epochs']} epochs, {about['date']}; "
        f"means over seeds, ± half the range; {about['units']}.\n`{about['command']}`\n\n{markdown(heads, lines)}"
    )


def clicks(report: Report) -> str:
    """One report of bench/quality_ifusion.py: a line per model, means over the seeds."""
    about, rows = report["about"], report["about"]["rows"]
    runs = {name: entry for name, entry in report["models"].items() if entry["runs"]}
    rivals = {"over_average": "average pooling", "over_attention": "attention pooling", "over_boosting": "gradient boosting"}
    keys = [key for key in rivals if all(key in entry["mean"] for entry in runs.values())]
    lines = []
    for name, entry in runs.items():
        m, s = entry["mean"], entry["spread"]
        over = (f"{m[key]:+.2%} ± {s[key] / 2:.2%}" for key in keys)
        lines.append((name, len(entry["runs"]), f"{m['auc']:.4f} ± {s['auc'] / 2:.4f}", *over, f"{m['train_s']:.0f}"))
    heads = ("model", "seeds", "AUC", *(f"RelaImpr over {rivals[key]}" for key in keys), "training, s")
    scored, epochs = about.get("scored_on", "test"), f"{about['epochs']} epoch{'s' * (about['epochs'] != 1)}"
    return (
        f"{about['data']}, clicks: trained on {rows['trained_on']:,} of {rows['train']:,} rows, scored on {rows['scored']:,} of "
        f"{rows['test']:,} {scored} rows, {epochs}; means over seeds, ± half the "
        f"range; RelaImpr over the same seed of another; {about['device']}, {about['date']}.\n`{about['command']}`\n\n"
        f"{markdown(heads, lines)}"
    )


def curve(report: Report) -> str:
    """The training losses with our kernels against those with plain torch, in one sentence."""
    about, differ = report["about"], report["relative_difference"]
    again = "yes" if report["repeats_itself_exactly"] else "no"
    return (
        f"The same {len(report['losses']['default']):,} steps from the same seed, with our kernels and with plain torch, {about['date']}: "
        f"the losses differ by at most {differ['first_10_steps']:.1e} (relative) in the first ten steps and {differ['all_steps']:.1e} in "
        f"all. Plain torch against itself, every starting weight one rounding error off: {differ['perturbed_first_10_steps']:.1e} and "
        f"{differ['perturbed_all_steps']:.1e}. The same run twice gives the same losses: {again}.\n`{about['command']}`"
    )


def _coverage(mean: dict[str, float]) -> str:
    return f"{mean['interval80_holds']:.1%}" if "interval80_holds" in mean else ""


def markdown(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in rows)


if __name__ == "__main__":
    sys.exit(main())
