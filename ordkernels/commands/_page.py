"""A report on predictions as one HTML file, which needs no other: calibration, PIT, errors by interval and by group."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ._charts import Chart
from ._predictions import Predictions, shown

__all__ = ["page"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5b6774;--rule:#dfe3e8;--paper:#fff;--main:#1f6fb4;--second:#c2571a}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--soft:#9aa5b1;--rule:#39424c;--paper:#14191f;--main:#5aa9e6;--second:#f0935a}}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.4rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2rem 0 .3rem}p{margin:.3rem 0 .8rem;max-width:44rem;color:var(--soft)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .9rem .25rem 0;text-align:right;border-bottom:1px solid var(--rule)}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:var(--soft)}
.charts{display:flex;flex-wrap:wrap;gap:1.5rem}.charts>div{flex:1 1 24rem}
svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--rule)}
.line{fill:none;stroke:var(--main);stroke-width:2}.reference{fill:none;stroke:var(--second);stroke-dasharray:5 4}
.point,.bar{fill:var(--main)}.band{fill:var(--soft);opacity:.2}
"""
_GROUPS = 20


def page(title: str, p: Predictions, contenders: dict[str, Predictions] | None = None) -> str:
    """The report.

    Args:
        title: its headline.
        p: what it is on.
        contenders: others on the same rows, to compare with, by their names.
    """
    sections = [_comparison({"": p} if contenders is None else contenders)]
    if p.quantiles:
        sections.append(f'<div class="charts"><div>{_calibration(p)}</div><div>{_pit(p)}</div></div>')
    else:
        sections.append("<p>There are no quantiles: calibration and PIT need columns named by their levels, as q0.1 and q0.9.</p>")
    sections.append(f'<div class="charts"><div>{_means(p)}</div><div>{_errors(p)}</div></div>')
    if p.group is not None:
        sections.append(_groups(p))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{len(p):,} rows</p>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _comparison(contenders: dict[str, Predictions]) -> str:
    found = {name: p.scores() for name, p in contenders.items()}
    columns = list(dict.fromkeys(column for scores in found.values() for column in scores))
    rows = [[name, *(shown(column, scores.get(column)) for column in columns)] for name, scores in found.items()]
    return _table(["", *columns], rows) if len(found) > 1 else _table(columns, [row[1:] for row in rows])


def _calibration(p: Predictions) -> str:
    levels, below = np.array(list(p.quantiles)), p.shares_below()
    grid = np.linspace(0, 1, 101)
    spread = 1.96 * np.sqrt(grid * (1 - grid) / len(p))
    chart = Chart((0, 1), (0, 1), ("level of the predicted quantile", "share of targets below it"))
    chart.band(grid.tolist(), np.maximum(grid - spread, 0).tolist(), np.minimum(grid + spread, 1).tolist())
    chart.line([0, 1], [0, 1], "reference").line(levels.tolist(), below.tolist())
    chart.points(levels.tolist(), below.tolist(), [f"level {q:g}: {share:.1%}" for q, share in zip(levels, below, strict=True)])
    worst = int(np.abs(below - levels).argmax())
    text = "On the diagonal, quantiles are what they say. Farthest from it: "
    text += f"{below[worst]:.1%} of the targets are below the quantile of level {levels[worst]:g}."
    return f"<h2>Calibration</h2><p>{text} The band is what chance alone would do.</p>{chart.svg()}"


def _pit(p: Predictions) -> str:
    edges, density = p.pit()
    pairs = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    chart = Chart((0, 1), (0, max(1.5, float(density.max()))), ("place of the target in its predicted distribution", "density"))
    chart.bars(pairs, density.tolist(), [f"{a:g} to {b:g}: {d:.2f}" for (a, b), d in zip(pairs, density, strict=True)])
    chart.line([0, 1], [1, 1], "reference")
    text = "Flat at 1 if calibrated; high at both ends: too narrow; high in the middle: too wide; sloping: biased."
    return f"<h2>Probability integral transform</h2><p>{text}</p>{chart.svg()}"


def _means(p: Predictions) -> str:
    parts = p.by_prediction()
    xs, ys = [float(part.point.mean()) for part in parts], [float(part.y.mean()) for part in parts]
    low, high = min([0.0, *xs, *ys]), max([*xs, *ys, 1e-12])
    chart = Chart((low, high), (low, high), ("mean prediction", "mean target"))
    chart.line([low, high], [low, high], "reference").line(xs, ys)
    chart.points(xs, ys, [f"{len(part):,} rows: {x:.4g} predicted, {y:.4g} true" for part, x, y in zip(parts, xs, ys, strict=True)])
    text = "Rows in the order of their predictions, in ten parts. A median lies below the mean of a skewed target."
    return f"<h2>Predictions and targets</h2><p>{text}</p>{chart.svg()}"


def _errors(p: Predictions) -> str:
    parts = p.by_target()
    values = [part.scores()["MAE"] for _, part in parts]
    names = [name for name, _ in parts]
    chart = Chart((0, len(parts)), (0, max([*values, 1e-12])), ("target", "MAE"), names=[name.split(" to ")[0] for name in names])
    edges = [(k + 0.08, k + 0.92) for k in range(len(parts))]
    chart.bars(edges, values, [f"{name}: MAE {v:.4g}, {len(part):,} rows" for (name, part), v in zip(parts, values, strict=True)])
    text = "Bars are named by the lower ends of their intervals, which have about as many rows each."
    return f"<h2>Error by interval of the target</h2><p>{text}</p>{chart.svg()}"


def _groups(p: Predictions) -> str:
    parts = p.by_group(_GROUPS)
    found = [(name, len(part), part.scores()) for name, part in parts]
    columns = [column for column in found[0][2] if column not in ("RMSE", "XAUC")]
    rows = [[name, f"{n:,}", *(shown(column, scores.get(column)) for column in columns)] for name, n, scores in found]
    assert p.group is not None
    n_groups = len(np.unique(p.group.astype(str)))
    what = f"The {len(parts)} of {n_groups:,} groups with the most rows." if n_groups > len(parts) else f"{n_groups:,} groups."
    return f"<h2>By group</h2><p>{what}</p>{_table(['group', 'rows', *columns], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)] + ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
