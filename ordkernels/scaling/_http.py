"""uvicorn's HTTP/1.1 protocol with what it lacks: a limit on the time that a client takes to send a request's headers."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["protocol"]


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """A protocol class whose connections are closed where headers take longer; those of idle ones too, from the first byte on."""

    class Protocol(H11Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._header_timer: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._close_if_waiting)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._is_waiting():
                self._cancel()
            elif self._header_timer is None:
                self._header_timer = self.loop.call_later(seconds, self._close_if_waiting)

        def connection_lost(self, error: Exception | None) -> None:
            self._cancel()
            super().connection_lost(error)

        def _is_waiting(self) -> bool:
            return self.cycle is None or bool(self.cycle.response_complete)

        def _cancel(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _close_if_waiting(self) -> None:
            self._header_timer = None
            if self._is_waiting():
                self.transport.close()

    return Protocol
