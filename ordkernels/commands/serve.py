"""`python -m ordkernels serve DIR`: a saved model behind HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._options import described, number

__all__ = ["add_parser", "main"]


def add_parser(commands: Any) -> None:
    parser = described(
        commands, "serve", "DIR [options]",
        "predictions of a saved model over HTTP, for demos and load tests",
        "Answers POST /predict, JSON or Arrow, with the predictions that `score` gives for the same rows, ids and seed. Requests\n"
        "that arrive together are scored together. GET /health, GET /metrics (Prometheus), GET /docs.",
        "serve model/ --port 8000\n"
        "serve model/ &  curl 127.0.0.1:8000/predict -d '{\"rows\": [{\"user\": 3, \"length\": 2.5}]}'",
    )  # fmt: skip
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder that `fit`, or save_pretrained() of a model, has written")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)")
    parser.add_argument(
        "--port", type=number(int, least=0, below=65536), default=8000, metavar="P", help="0: any that is free (default 8000)"
    )
    parser.add_argument("--threads", type=number(int, least=1), metavar="N", help="that predict (default: all cores)")

    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-rows", type=number(int, least=1), default=10_000, metavar="N", help="of a request (default 10,000)")
    limits.add_argument("--max-body", type=number(int, least=1), default=8 << 20, metavar="BYTES", help="of a request (default 8 MiB)")
    limits.add_argument("--timeout", type=number(float, above=0), default=10, metavar="S", help="seconds to send a request in (default 10)")
    limits.add_argument("--max-connections", type=number(int, least=1), default=256, metavar="N", help="at a time (default 256)")

    batching = parser.add_argument_group("batching")
    batching.add_argument("--batch-rows", type=number(int, least=1), default=1024, metavar="N", help="scored at a time (default 1024)")
    batching.add_argument("--max-wait", type=number(float, least=0), default=2, metavar="MS", help="for other requests (default 2 ms)")


def main(args: argparse.Namespace) -> int:
    """Serves until interrupted."""
    from ..scaling.serve import Limits, Service, server

    limits = Limits(
        rows=args.max_rows, body=args.max_body, seconds=args.timeout, connections=args.max_connections, batch_rows=args.batch_rows,
        wait=args.max_wait / 1000, queue=max(Limits.queue, 4 * args.max_rows),
    )  # fmt: skip
    running = server(Service(args.dir, limits=limits, threads=args.threads), args.host, args.port)
    running.run()
    return 0 if running.started else 2  # uvicorn has said why
