"""Latency and memory of `python -m ordkernels serve` under load: closed-loop clients that each send one request after the other.

    python bench/serve_load.py                     10 seconds each with 1, 8 and 64 clients
    python bench/serve_load.py --seconds 600 --clients 8

Without --dir a small FlowTime of 11 numbers, one category and two ids is made and served. Prints JSON: by number of clients requests,
errors, p50 and p99 in milliseconds, rows a second, and the server's resident memory after the first tenth and at the end.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dir", type=Path, help="a saved model; then --rows-file too")
    p.add_argument("--rows-file", type=Path, help='JSON: {"columns": {name: [...]}}, rows to draw requests from')
    p.add_argument("--seconds", type=float, default=10)
    p.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    p.add_argument("--rows", type=int, default=1, help="of a request")
    p.add_argument("--threads", type=int, help="of the server")
    p.add_argument("--json", type=Path, metavar="F", help="write the result there too; bench/results/serve.json is shown in RESULTS.md")
    return p


def made_model(folder: Path) -> dict[str, Any]:
    """Fits and saves a model; returns rows to draw requests from."""
    from ordkernels.estimators import FlowTimeRegressor

    rng, N = np.random.default_rng(0), 4000
    columns: dict[str, Any] = {f"x{k}": rng.normal(size=N) for k in range(11)}
    columns |= {"user": rng.integers(0, 500, N), "item": rng.integers(0, 900, N), "kind": rng.choice(["a", "b", "c"], N)}
    FlowTimeRegressor(user="user", item="item", epochs=1).fit(columns, np.exp(columns["x0"])).save_pretrained(folder)
    return {name: c[:1000].tolist() for name, c in columns.items()}


def bodies(columns: dict[str, Any], rows: int) -> list[bytes]:
    N = len(next(iter(columns.values())))
    starts = range(0, N - rows + 1, rows)
    return [json.dumps({"columns": {name: c[s : s + rows] for name, c in columns.items()}}).encode() for s in starts]


async def client(port: int, requests: list[bytes], first: int, until: float, seconds: list[float], errors: list[str]) -> None:
    """Sends requests over one connection; bare sockets, so that the client costs little beside the server."""
    reader = writer = None
    k = first
    while time.perf_counter() < until:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            start, k = time.perf_counter(), k + 1
            content = requests[k % len(requests)]
            writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
            assert reader is not None
            head = await reader.readuntil(b"\r\n\r\n")
            match = re.search(rb"content-length: (\d+)", head, re.I)
            answer = await reader.readexactly(int(match[1]) if match else 0)
            seconds.append(time.perf_counter() - start)
            if not head.startswith(b"HTTP/1.1 200"):
                errors.append(f"{head[:20]!r} {answer[:100]!r}")
        except (OSError, asyncio.IncompleteReadError) as error:
            errors.append(repr(error))
            writer = None
    if writer is not None:
        writer.close()


async def load(port: int, pid: int, requests: list[bytes], clients: int, duration: float) -> dict[str, Any]:
    seconds: list[float] = []
    errors: list[str] = []
    begin = time.perf_counter()
    tasks = [asyncio.create_task(client(port, requests, 97 * k, begin + duration, seconds, errors)) for k in range(clients)]
    await asyncio.sleep(duration / 10)
    before = resident(pid)
    await asyncio.gather(*tasks)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3 if seconds else (float("nan"), float("nan"))
    return {
        "requests": len(seconds), "errors": len(errors), "first_errors": errors[:3], "p50_ms": round(p50, 2), "p99_ms": round(p99, 2),
        "requests_per_s": round(len(seconds) / (time.perf_counter() - begin), 1), "resident_mib": [before, resident(pid)],
    }  # fmt: skip


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    import urllib.request

    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not answer within a minute")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.dir or Path(temporary)
        columns = json.loads(args.rows_file.read_text())["columns"] if args.dir else made_model(folder)
        port = free_port()
        command = [sys.executable, "-m", "ordkernels", "serve", str(folder), "--port", str(port)]
        command += ["--threads", str(args.threads)] if args.threads else []
        server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        try:
            wait_until_ready(server, port)
            requests = bodies(columns, args.rows)
            asyncio.run(load(port, server.pid, requests, 1, 1.0))  # warm-up
            runs = {str(n): asyncio.run(load(port, server.pid, requests, n, args.seconds)) for n in args.clients}
        finally:
            server.terminate()
            server.wait(30)
    about = {"rows_per_request": args.rows, "seconds": args.seconds, "cores": os.cpu_count(), "load_average": os.getloadavg()}
    result = {**about, "clients": runs}
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    found = main()
    sys.exit(int(any(run["errors"] or not run["requests"] for run in found["clients"].values())))
