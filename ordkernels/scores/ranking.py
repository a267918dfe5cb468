"""Scores of the order of rows: XAUC, AUC and RelaImpr, Spearman's correlation."""

from .auc import auc
from .relaimpr import relaimpr
from .srcc import srcc
from .xauc import XAUCResult, xauc

__all__ = ["XAUCResult", "auc", "relaimpr", "srcc", "xauc"]
