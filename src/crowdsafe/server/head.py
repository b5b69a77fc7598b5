"""How large the head of a request may be: httptools reads one without an end, h11 does not."""

from __future__ import annotations

from typing import Any

__all__ = ["HEAD_BYTES_MAX", "HTTP"]

HEAD_BYTES_MAX = 64 * 1024

HTTP: Any = "h11"
"""For ``uvicorn.Config(http=...)``."""

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:
    pass
else:

    class _BoundedHead(HttpToolsProtocol):
        """Refuses a head that is not complete after HEAD_BYTES_MAX bytes and one chunk more."""

        _in_head = False
        _head_bytes = 0

        def on_message_begin(self) -> None:
            self._in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._head_bytes = 0
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._in_head:
                return
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    HTTP = _BoundedHead
