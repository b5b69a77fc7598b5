"""Events as bytes of a text/event-stream (HTML Living Standard, "Server-sent events")."""

from __future__ import annotations

import json

from crowdsafe.feed.log import Event

__all__ = ["event_frame", "heartbeat_frame", "position_frame", "resync_frame", "retry_frame"]


def event_frame(event: Event) -> bytes:
    """The event under its own type, with its id; JSON text never holds a line end."""
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.body}\n\n".encode()


def position_frame(feed_id: int) -> bytes:
    """Moves the client's Last-Event-ID without showing it an event."""
    return b"id: %d\n\n" % feed_id


def heartbeat_frame(feed_id: int) -> bytes:
    """A comment that keeps proxies from closing a quiet stream, and the position reached.

    Without the position, a client of a quiet topic would come back with an id that is long gone.
    """
    return b":\nid: %d\n\n" % feed_id


def resync_frame(reason: str, feed_id: int) -> bytes:
    """Tells the client that it missed something: reload the data, then go on from ``feed_id``."""
    body = json.dumps({"reason": reason, "id": feed_id})
    return f"id: {feed_id}\nevent: resync\ndata: {body}\n\n".encode()


def retry_frame(wait_ms: int) -> bytes:
    """How long the browser waits before it connects again."""
    return b"retry: %d\n\n" % wait_ms
