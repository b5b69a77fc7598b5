"""The server of the systems: one application, in one process or in several."""

from __future__ import annotations

from crowdsafe.server.app import ServerSettings, begin_shutdown, create_app, prepare

__all__ = ["ServerSettings", "begin_shutdown", "create_app", "prepare"]
