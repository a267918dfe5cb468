"""The demo's tables."""

from __future__ import annotations

from .. import ops
from .evaluation import CLICKS_EVERY
from .results import Result
from .tasks import Task

__all__ = [
    "click_table",
    "interval_table",
    "speed_table",
    "table",
]


def table(results: list[Result], task: Task) -> str:
    """One line per model; lower is better, except XAUC (higher) and the 80 % interval (nearer to 80 %)."""
    unit = {"s": ", s", "dollars": ", $"}.get(task.unit, "")
    heads = {f"MAE{unit}": 9, "XAUC": 9, **({"PDF-U": 14, "PDF-I": 14} if task.grouped else {}), f"CRPS{unit}": 10, "80 %": 9,
             "train, ms": 12, "score, ms": 12}  # fmt: skip
    lines = [f"  {'':<28}" + "".join(f"{head:>{width}}" for head, width in heads.items())]
    for r in results:
        if r["status"] == "done":
            cells = "".join(f"{cell:>{width}}" for cell, width in zip(_cells(r, task), heads.values(), strict=True))
        else:
            cells = f"  {r['status']}: {r['reason']}"
        lines.append(f"  {r['name']:<28}{cells}")
    lines += [
        "  80 %: share of test rows inside the central 80 % interval of the draws. CRPS of a point is its absolute error.",
        f"  ms per 1,000 rows: the whole training, over the training rows; scoring, {task.draws} draws a row where a model draws.",
    ]
    if task.grouped:
        lines.insert(-2, "  PDF: base 2, of the point prediction / of one draw per row.")
    return "\n".join(lines)


def interval_table(results: list[Result], task: Task) -> str:
    """MAE by tenth of the training labels; and, where durations are known, the scores of the watch ratio."""
    rows = [r for r in results if r["status"] == "done"]
    if not rows:
        return "  no model was scored"
    form = "{:.2f}" if task.unit else "{:.4f}"
    ratio = {"ratio MAE": "ratio_mae", "XAUC": "ratio_xauc", "PDF-U": "ratio_pdf_user", "PDF-I": "ratio_pdf_item"}
    ratio = ratio if all("ratio_mae" in r["scores"] for r in rows) else {}
    heads = [f"{e:.3g}-" for e in rows[0]["intervals"]["edges"][:-1]]
    lines = [f"  {'':<28}" + "".join(f"{head:>9}" for head in heads) + "".join(f"{head:>11}" for head in ratio)]
    for r in rows:
        cells = ["-" if v is None else form.format(v) for v in r["intervals"]["mae"]]
        lines.append(f"  {r['name']:<28}" + "".join(f"{c:>9}" for c in cells)
                     + "".join(f"{r['scores'][key]:>11.4f}" for key in ratio.values()))  # fmt: skip
    return "\n".join(lines)


def _cells(r: Result, task: Task) -> list[str]:
    s = r["scores"]
    form = "{:.2f}" if task.unit else "{:.4f}"
    pdf = [f"{s[f'pdf_{side}']:.3f} / " + (f"{d:.3f}" if (d := s[f"pdf_{side}_draw"]) is not None else "    -") for side in
           (("user", "item") if task.grouped else ())]  # fmt: skip
    coverage = "-" if s["interval80"] is None else f"{s['interval80']:.1%}"
    times = [f"{r[key]:,.0f}" if r[key] >= 10 else f"{r[key]:.2f}" for key in ("train_ms_per_1000_rows", "score_ms_per_1000_rows")]
    return [form.format(s["mae"]), f"{s['xauc']:.4f}", *pdf, form.format(s["crps"]), coverage, *times]


def speed_table(results: list[Result]) -> str:
    lines = [f"  {'':<28}{'':<22}{'reference':>12}{'ordkernels':>12}{'ratio':>9}"]
    for r in results:
        speed = r.get("speed", [])
        if isinstance(speed, str):
            lines.append(f"  {r['name']:<28}failed: {speed}")
            continue
        lines += [f"  {r['name']:<28}{s['what']:<22}{s['reference_ms']:>12,.1f}{s['ours_ms']:>12,.1f}{s['ratio']:>8.2f}x" for s in speed]
    return "\n".join(lines) if len(lines) > 1 else "  none of these models draws"


def click_table(results: dict[str, Result]) -> str:
    """AUC of clicks, and RelaImpr over the poolings of the same encoders; "" where no model predicts clicks."""
    aucs = {key: r["click_auc"] for key, r in results.items() if "click_auc" in r}
    if not aucs:
        return ""
    bases = [key for key in ("average", "attention") if key in aucs]
    lines = [f"  {'':<28}{'AUC':>9}" + "".join(f"{'over ' + results[key]['name']:>28}" for key in bases)]
    for key, auc in aucs.items():
        over = "".join(f"{ops.relaimpr(auc, aucs[base]):>+28.2%}" if base != key else f"{'-':>28}" for base in bases)
        lines.append(f"  {results[key]['name']:<28}{auc:>9.4f}{over}")
    lines.append(f"  Clicks of every {CLICKS_EVERY}th test row; over: RelaImpr, (AUC - 1/2) / (its AUC - 1/2) - 1.")
    return "\n".join(lines)
