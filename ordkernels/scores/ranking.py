"""Scores of the order of rows: XAUC, AUC and RelaImpr, Spearman's and Kendall's correlation, normalized Gini."""

from .auc import auc
from .kendall_tau import kendall_tau
from .normalized_gini import normalized_gini
from .relaimpr import relaimpr
from .srcc import srcc
from .xauc import XAUCResult, xauc

__all__ = ["XAUCResult", "auc", "kendall_tau", "normalized_gini", "relaimpr", "srcc", "xauc"]
