"""Micro-batching: requests that arrive together are scored together, those that nobody waits for any more not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

__all__ = ["MicroBatcher", "QueueFullError"]


class QueueFullError(RuntimeError):
    """More rows wait than the queue may hold."""


@dataclass
class _Entry:
    item: Any
    rows: int
    key: Hashable
    result: asyncio.Future[Any]


class MicroBatcher:
    """A queue whose entries a single thread scores, several at a time.

    Args:
        score: results of items of one key, in their order.
        batch_rows: scored at a time, unless a single item has more.
        wait: seconds for which the first entry of an empty queue waits for others.
        queue_rows: that may wait.
        on_batch: called with the number of rows of each batch.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        batch_rows: int,
        wait: float,
        queue_rows: int,
        on_batch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._score, self._on_batch = score, on_batch
        self.batch_rows, self.wait, self.queue_rows = batch_rows, wait, queue_rows
        self._pending: deque[_Entry] = deque()
        self._rows = 0
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "ordkernels-serve")
        self._task: asyncio.Task[None] | None = None

    @property
    def rows(self) -> int:
        """That wait."""
        return self._rows

    @property
    def is_running(self) -> bool:
        return self._task is None or not self._task.done()

    async def submit(self, item: Any, rows: int, key: Hashable) -> Any:
        """The result of one item; a caller that is cancelled takes it out of the queue.

        Args:
            item: what ``score`` takes.
            rows: that it counts for.
            key: items of equal keys may be scored together.

        Raises:
            QueueFullError: the queue has no room for it.
        """
        if self._rows and self._rows + rows > self.queue_rows:
            raise QueueFullError(f"expected at most {self.queue_rows:,} waiting rows, got {self._rows:,} and {rows:,} more")
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        entry = _Entry(item, rows, key, asyncio.get_running_loop().create_future())
        self._pending.append(entry)
        self._rows += rows
        self._arrived.set()
        if self._rows >= self.batch_rows:
            self._full.set()
        return await entry.result

    async def close(self) -> None:
        """Ends the queue's task; entries that wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for entry in self._pending:
            entry.result.cancel()
        self._thread.shutdown()

    async def _run(self) -> None:
        loop, is_idle = asyncio.get_running_loop(), True
        while True:
            if is_idle:
                await self._arrived.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self.wait)
            entries = self._taken()
            is_idle = not entries
            if is_idle:
                continue
            self._on_batch(sum(e.rows for e in entries))
            results = await loop.run_in_executor(self._thread, self._scored, [e.item for e in entries])
            for entry, result in zip(entries, results, strict=True):
                if entry.result.done():  # cancelled meanwhile
                    continue
                if isinstance(result, Exception):
                    entry.result.set_exception(result)
                else:
                    entry.result.set_result(result)
            is_idle = not self._pending

    def _taken(self) -> list[_Entry]:
        """The first entry and those behind it of the same key; the others stay in their order."""
        waiting = [e for e in self._pending if not e.result.done()]
        taken: list[_Entry] = []
        rows = 0
        for entry in waiting:
            if entry.key == waiting[0].key and (not taken or rows + entry.rows <= self.batch_rows):
                taken.append(entry)
                rows += entry.rows
        ids = set(map(id, taken))
        self._pending = deque(e for e in waiting if id(e) not in ids)
        self._rows = sum(e.rows for e in self._pending)
        if self._rows < self.batch_rows:
            self._full.clear()
        if not self._pending:
            self._arrived.clear()
        return taken

    def _scored(self, items: Sequence[Any]) -> Sequence[Any]:
        """Results or errors. What fails together is tried one by one: an item that cannot be scored fails alone."""
        try:
            return self._score(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [self._scored([item])[0] for item in items]
