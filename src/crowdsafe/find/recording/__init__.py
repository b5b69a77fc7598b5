"""What tests do, recorded while they do it: their requests are tried at once, there and then."""

from __future__ import annotations

from crowdsafe.find.recording.marking import operation

__all__ = ["operation"]
