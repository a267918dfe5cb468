"""A saved model behind HTTP: JSON or Arrow in and out, micro-batching, limits, metrics. Needs the extra ``ordkernels[serve]``.

POST /predict   {"rows": [{"user": 3, "length": 2.5}, ...], "quantiles": [0.1, 0.9], "seed": 0}
                -> {"predictions": {"row": [0, ...], "prediction": [...], "q0.1": [...], "q0.9": [...]}}
POST /predict?quantiles=0.1,0.9   an Arrow IPC stream -> an Arrow IPC stream
GET /health, /metrics
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ._batching import MicroBatcher, QueueFullError
from ._outputs import Outputs, load
from ._requests import ARROW, JSON, Asked, RequestError, arrow_body, arrow_request, json_body, json_request, times
from .predictor import Predictor

try:
    import fastapi
    import prometheus_client
    import uvicorn
    from starlette.requests import ClientDisconnect

    from . import _http
except ImportError as error:
    raise ImportError(
        f"ordkernels.scaling.serve: expected FastAPI, uvicorn and prometheus-client, got {error}. They are an optional extra: "
        "pip install 'ordkernels[serve]'"
    ) from error

__all__ = ["Limits", "Service", "server"]

_log = logging.getLogger("uvicorn.error")
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # seconds
_WHOLE = ("user", "item", "long", "sessions")  # whole numbers among what models read
_EXAMPLE = {"rows": [{"user": 3, "length": 2.5}], "quantiles": [0.1, 0.9], "seed": 0}


@dataclass(frozen=True)
class Limits:
    """Of a service.

    Args:
        rows: of a request.
        values: of a request: its rows times their draws.
        body: bytes of a request.
        seconds: in which a client sends a request's headers, and again its body.
        queue: rows that may wait; requests beyond get 503.
        connections: at a time; more get 503.
        batch_rows: scored at a time.
        wait: seconds for which a request that comes to an idle service waits for others.
    """

    rows: int = 10_000
    values: int = 1 << 21
    body: int = 8 << 20
    seconds: float = 10.0
    queue: int = 100_000
    connections: int = 256
    batch_rows: int = 1024
    wait: float = 0.002


@dataclass(frozen=True)
class _Query:
    """A request that was read: what the model reads of its rows, and what is asked of them."""

    batch: dict[str, Tensor]
    ids: Tensor
    outputs: Outputs
    seed: int

    def key(self) -> Any:
        """Equal for what can be scored in one call."""
        shapes = tuple((name, t.dtype, t.shape[1:]) for name, t in self.batch.items())
        return self.outputs, self.seed, shapes


class Service:
    """Predictions over HTTP, the bytes that `Predictor` and ``score`` give for the same rows, ids and seed.

    Args:
        directory: that ``save_pretrained`` of a model or an estimator has written.
        limits: of requests, queue and connections.
        batch_size: rows of a `Predictor`'s block. A single row takes as long as a block: the smallest answers first.
        threads: that predict; None: torch's number.

    Raises:
        ImportError, ValueError: no model there, or one that needs packages that are not installed.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, limits: Limits | None = None, batch_size: int = 128, threads: int | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.model, self._is_estimator = load(Path(directory))
        self.predictor = Predictor(self.model, batch_size, threads=threads)
        self.row_id: str | None = self.model.row_id if self._is_estimator else None
        self._queue: MicroBatcher | None = None
        self._metrics()
        self._warm_up()

    def app(self) -> fastapi.FastAPI:
        """The ASGI application."""

        @contextlib.asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            yield
            if self._queue is not None:
                await self._queue.close()
            self.predictor.close()

        app = fastapi.FastAPI(title="ordkernels", version=__version__, description=__doc__, lifespan=lifespan)
        body = {"content": {JSON: {"example": _EXAMPLE}, ARROW: {}}, "required": True}
        app.add_api_route("/predict", self._predict, methods=["POST"], openapi_extra={"requestBody": body}, response_model=None)
        app.add_api_route("/health", self._health, methods=["GET"], response_model=None)
        app.add_api_route("/metrics", self._metrics_page, methods=["GET"], response_model=None)
        return app

    def read(self, asked: Asked) -> _Query:
        """What a request asks for, checked against the model.

        Raises:
            TypeError, ValueError: what is wrong, with the column.
            RequestError: 413 too many draws.
        """
        outputs = Outputs.of(self.predictor.module, asked.quantiles, asked.samples, asked.draws)
        values = asked.rows * max(outputs.draws, outputs.samples, 1)
        if values > self.limits.values:
            raise RequestError(413, f"rows: expected rows x draws of at most {self.limits.values:,}, got {values:,}")
        columns, ids = dict(asked.columns), None
        if asked.row_id is not None:
            if self.row_id is not None:
                raise ValueError(f"row_id: expected none, the estimator was fitted with {self.row_id!r}, got {asked.row_id!r}")
            if asked.row_id not in columns:
                raise ValueError(f"row_id: expected the name of a column ({', '.join(map(repr, columns))}), got {asked.row_id!r}")
            ids = np.asarray(columns[asked.row_id])
        if self._is_estimator:
            features = self.model.features_
            columns = {name: c for name, c in columns.items() if name in features.needed()}
            if not columns:
                raise ValueError(f"X: expected the columns {', '.join(map(repr, features.needed()))}, as in training, got others")
            columns = times(columns, [name for name, kind in features.kinds.items() if kind == "time"])
        else:
            columns = {name: _as_floats(name, c) for name, c in columns.items() if name != asked.row_id}
        return _Query(*self.predictor.encode(columns, ids), outputs, asked.seed)

    def score(self, queries: Sequence[_Query]) -> list[dict[str, Any]]:
        """The columns of the answer to each of some queries of one key."""
        first = queries[0]
        batch = {name: torch.cat([q.batch[name] for q in queries]) for name in first.batch}
        ids = torch.cat([q.ids for q in queries])
        predicted = self.predictor.predict_encoded(batch, ids, **first.outputs.arguments(first.seed)).numpy()
        ends = np.cumsum([len(q.ids) for q in queries])[:-1]
        name = self.row_id or "row"
        return [{name: q.ids.numpy(), **q.outputs.columns(p)} for q, p in zip(queries, np.split(predicted, ends), strict=True)]

    async def _predict(self, request: fastapi.Request) -> fastapi.Response:
        start, status = time.perf_counter(), 499  # of a client that went away
        try:
            response = await self._answered(request)
            status = response.status_code
            return response
        finally:
            self._requests.labels(str(status)).inc()
            self._seconds.observe(time.perf_counter() - start)

    async def _answered(self, request: fastapi.Request) -> fastapi.Response:
        """The response; every error of a request becomes one that says what is wrong."""
        try:
            kind = _content_type(request)
            body = await self._body(request)
            query = await asyncio.to_thread(self._read, kind, body, request.query_params)
            del body
            columns = await self._while_connected(request, self._scored(query))
            make = arrow_body if kind == ARROW else json_body
            return fastapi.Response(await asyncio.to_thread(make, columns), media_type=kind)
        except RequestError as error:
            return _problem(error.status, str(error))
        except QueueFullError as error:
            return _problem(503, f"queue: {error}", {"retry-after": "1"})
        except (TypeError, ValueError) as error:
            return _problem(400, str(error))
        except ClientDisconnect:
            return _problem(499, "the client went away")
        except Exception:
            _log.exception("a request failed")
            return _problem(500, "internal error, see the server's log")

    def _read(self, kind: str, body: bytes, query: Any) -> _Query:
        most = self.limits.rows
        return self.read(arrow_request(body, query, most) if kind == ARROW else json_request(body, most))

    async def _scored(self, query: _Query) -> dict[str, Any]:
        if self._queue is None:
            limits = self.limits
            self._queue = MicroBatcher(
                self.score, batch_rows=limits.batch_rows, wait=limits.wait, queue_rows=limits.queue, on_batch=self._batch_rows.observe
            )
        found: dict[str, Any] = await self._queue.submit(query, len(query.ids), query.key())
        self._rows.inc(len(query.ids))
        return found

    async def _while_connected(self, request: fastapi.Request, work: Any) -> Any:
        """The result of a coroutine, which is cancelled if the client goes away."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            gone.cancel()
            task.cancel()

    async def _body(self, request: fastapi.Request) -> bytes:
        most, chunks, size = self.limits.body, [], 0
        if int(request.headers.get("content-length", "0")) > most:
            raise RequestError(413, f"body: expected at most {most:,} bytes, got {request.headers['content-length']}")
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise RequestError(413, f"body: expected at most {most:,} bytes, got more")
                    chunks.append(chunk)
        except TimeoutError as error:
            raise RequestError(408, f"body: expected within {self.limits.seconds:g} seconds, got {size:,} bytes of it") from error
        if not size:
            raise RequestError(400, "body: expected rows, got nothing")
        return b"".join(chunks)

    async def _health(self) -> fastapi.Response:
        alive = self._queue is None or self._queue.is_running
        content = {"status": "ok" if alive else "failed", "model": type(self.model).__name__, "version": __version__}
        return fastapi.responses.JSONResponse(content, 200 if alive else 503)

    async def _metrics_page(self) -> fastapi.Response:
        return fastapi.Response(prometheus_client.generate_latest(self._registry), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    def _metrics(self) -> None:
        self._registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self._requests = prometheus_client.Counter("ordkernels_requests", "Requests by status.", ["status"], registry=registry)
        self._seconds = prometheus_client.Histogram(
            "ordkernels_request_seconds", "From headers to response.", registry=registry, buckets=_BUCKETS
        )
        self._rows = prometheus_client.Counter("ordkernels_rows", "Rows predicted.", registry=registry)
        sizes = [2**k for k in range(0, 15, 2)]
        self._batch_rows = prometheus_client.Histogram("ordkernels_batch_rows", "Rows scored together.", registry=registry, buckets=sizes)
        waiting = prometheus_client.Gauge("ordkernels_waiting_rows", "Rows in the queue.", registry=registry)
        waiting.set_function(lambda: 0 if self._queue is None else self._queue.rows)

    def _warm_up(self) -> None:
        """Threads, and what an estimator derives of its histories, before the first request comes."""
        if self._is_estimator:
            zeros: dict[str, Any] = {"category": np.array([""], dtype=object), "time": np.zeros(1, "datetime64[us]")}
            features = self.model.features_
            self.predictor.warm_up({name: zeros.get(features.kinds[name], np.zeros(1, np.int64)) for name in features.needed()})


def server(service: Service, host: str = "127.0.0.1", port: int = 8000, log_level: str = "info") -> uvicorn.Server:
    """A server whose ``run()`` serves until interrupted; requests that are being answered then are finished."""
    protocol = _http.protocol(service.limits.seconds)
    config = uvicorn.Config(
        service.app(), host=host, port=port, log_level=log_level, access_log=False, http=protocol, ws="none", lifespan="on",
        limit_concurrency=service.limits.connections, timeout_graceful_shutdown=10,
    )  # fmt: skip
    return uvicorn.Server(config)


def _content_type(request: fastapi.Request) -> str:
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in (JSON, ARROW):
        raise RequestError(415, f"content-type: expected {JSON} or {ARROW}, got {kind[:80]!r}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, f"content-encoding: expected none, got {request.headers['content-encoding'][:80]!r}")
    return kind


def _as_floats(name: str, column: Any) -> Any:
    """A model's numbers from JSON, many of whose writers make 1 of 1.0."""
    if name in _WHOLE or not isinstance(column, list):
        return column
    try:
        numbers = np.asarray(column)
    except ValueError:
        return column  # ragged
    return numbers.astype(np.float64) if numbers.dtype.kind in "iu" else column


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> fastapi.Response:
    """An error that says what is wrong. The connection closes: the rest of a body that was not read does not matter then."""
    return fastapi.responses.JSONResponse({"detail": detail}, status, {"connection": "close", **(headers or {})})


async def _disconnected(request: fastapi.Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
