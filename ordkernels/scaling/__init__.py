"""Scoring many rows: on one machine by `Predictor`, on many by Ray or Spark, and over HTTP.

    python -m ordkernels score model/ rows.parquet out/                                # this process, all cores
    python -m ordkernels score model/ rows.parquet out/ --engine ray --workers 4       # Ray Data, here or in the cluster of RAY_ADDRESS
    python -m ordkernels score model/ rows.parquet out/ --engine spark --workers 4     # PySpark, here or in spark-submit's; needs Java
    python -m ordkernels serve model/ --port 8000                                      # JSON and Arrow over HTTP
    ray.serve.run(ordkernels.scaling.ray_serve.deployment("model/", num_replicas=2))   # the same service on many machines

All give the same bytes for the same row, row id and seed. ``out/`` holds part files and a manifest: the same command again goes on where a
run was cut short, and does not touch the parts that are there. On several machines model, table and ``out/`` lie on storage that all of
them share. `ordkernels.scaling.serve` describes requests; ``bench/serve_load.py`` measures a server under load.
"""

from .predictor import Predictor

__all__ = ["Predictor"]
