"""The engine of Spark: a `predict_batch_udf` whose rows are numbers of parts. Needs ``ordkernels[spark]`` and a Java runtime.

With a master of its own (spark-submit, a running session) the folders of model, table and parts must be on storage that all machines
share. Failed tasks are tried again, four times in all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._workers import PartWorker, located, raise_first, spans
from .parts import PartFolder, PartScorer

__all__ = ["run"]


def run(folder: PartFolder, scorer: PartScorer, workers: int | None = None) -> None:
    """Fills in the parts that are not there.

    Args:
        folder: opened with its job.
        scorer: of the same job; its threads are each worker's.
        workers: tasks at a time of a Spark that this starts; None: as many as the CPUs allow.

    Raises:
        ImportError: PySpark is not installed, or there is no Java.
        TypeError, ValueError: what a worker has found wrong with the table.
    """
    threads = scorer.predictor.threads
    with _session(workers or max(1, (os.cpu_count() or 1) // threads)) as spark:
        tasks = spans(folder.missing(), spark.sparkContext.defaultParallelism)
        if not tasks:
            return
        functions, types = importlib.import_module("pyspark.ml.functions"), importlib.import_module("pyspark.sql.types")
        make = functions.predict_batch_udf(_maker(*located(folder), threads), return_type=types.StringType(), batch_size=1)
        rows = spark.createDataFrame(spark.sparkContext.parallelize(tasks, len(tasks)), "begin long, end long")
        raise_first(row[0] for row in rows.select(make("begin", "end")).collect())


def _maker(*arguments: Any) -> Callable[[], Callable[..., Any]]:
    def make_predict() -> Callable[..., Any]:
        worker = PartWorker(*arguments)  # once in each Python process

        def predict(begin: Any, end: Any) -> Any:
            return np.array([worker.make(int(a), int(b)) for a, b in zip(begin, end, strict=True)], dtype=object)

        return predict

    return make_predict


@contextlib.contextmanager
def _session(workers: int) -> Iterator[Any]:
    """A running Spark, that of spark-submit, or one of this machine, which ends with the block."""
    try:
        pyspark, sql = importlib.import_module("pyspark"), importlib.import_module("pyspark.sql")
        importlib.import_module("pyspark.ml.functions")
    except ImportError as error:
        raise ImportError(
            f"--engine spark: expected PySpark, got {error}. It is an optional extra: pip install 'ordkernels[spark]'"
        ) from error
    active = sql.SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    home = os.environ.get("JAVA_HOME")
    if not (Path(home) / "bin" / "java").exists() if home else shutil.which("java") is None:
        raise ImportError(
            f"--engine spark: expected a Java runtime (17 or later), got none {'in JAVA_HOME, ' + home if home else 'on PATH'}: "
            "as Debian's openjdk-17-jre-headless"
        )
    builder = sql.SparkSession.builder.appName("ordkernels")
    if not pyspark.SparkConf().contains("spark.master"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else the workers' is the first python3 on PATH
        builder = builder.master(f"local[{workers},4]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.ui.showConsoleProgress", "false").config("spark.driver.host", "127.0.0.1")
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    try:
        yield spark
    finally:
        spark.stop()
