"""One user's browser window, and the API beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

import httpx
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

PASSWORD = "crowd"
LIVE_S_MAX = 1.0
"""How soon a change shows on another screen."""
ATTEMPTS = 5
"""How often that is tried: on a machine that does much else, one in time is enough."""
WAIT_MS = 10_000
expect.set_options(timeout=15_000)
LAUNCH_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_REFUSED = "Failed to load resource: the server responded with a status of 4"


class Plant:
    """The factory's API as its users call it; each logs in once."""

    def __init__(self, base_url: str) -> None:
        self._client = httpx.Client(base_url=base_url, timeout=10)
        self._tokens: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def token(self, username: str) -> str:
        """An access token of this user."""
        if username not in self._tokens:
            body = {"username": username, "password": PASSWORD}
            answer = self._client.post("/auth/login", json=body)
            answer.raise_for_status()
            self._tokens[username] = answer.json()["access_token"]
        return self._tokens[username]

    def call(self, username: str, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request to the API as this user."""
        headers = {"Authorization": f"Bearer {self.token(username)}"}
        return self._client.request(method, f"/factory/api{path}", json=body, headers=headers)

    def get(self, path: str, username: str = "admin") -> Any:
        """What the API answers to a GET."""
        answer = self.call(username, "GET", path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any, username: str = "admin") -> Any:
        """What the API answers to a POST that must succeed."""
        answer = self.call(username, "POST", path, body)
        assert answer.is_success, answer.text
        return answer.json()

    def new_order(self, **fields: Any) -> dict[str, Any]:
        """An order that no other test touches."""
        product = self.get("/products")[0]
        client = self.get("/clients")[0]
        body = {
            "client_id": client["id"],
            "items": [{"product_id": product["id"], "quantity": 100}],
            "contact_name": "Jane Roe",
            "notes": "Ring first.",
            **fields,
        }
        order: dict[str, Any] = self.post("/orders", body, "mara")
        return order

    def edit(self, order: dict[str, Any], username: str, **changes: Any) -> dict[str, Any]:
        """Another user's save of an order."""
        base = {name: order[name] for name in changes}
        body = {"version": order["version"], "base": base, "changes": changes}
        answer = self.call(username, "PATCH", f"/orders/{order['id']}", body)
        assert answer.status_code == 200, answer.text
        saved: dict[str, Any] = answer.json()["order"]
        return saved


class Desk:
    """A browser window; `username` None is a visitor."""

    def __init__(
        self,
        browser: Browser,
        base_url: str,
        plant: Plant,
        username: str | None,
        *,
        width: int = 1280,
        scheme: Any = "light",
    ) -> None:
        self.base_url = base_url
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=base_url
        )
        self.context.set_default_timeout(WAIT_MS)
        if username is not None:
            self.context.add_cookies(
                [
                    {
                        "name": "crowdsafe_session",
                        "value": plant.token(username),
                        "url": base_url,
                        "httpOnly": True,
                        "sameSite": "Lax",
                    }
                ]
            )
        self.troubles: list[str] = []
        self.page: Page = self.context.new_page()
        self.context.on("request", self._on_request)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"script error: {error}"))

    def open(self, path: str) -> Page:
        """Go to a page and wait until it is live, if it has a live stream."""
        self.page.goto(path)
        if self.page.locator("#live-status").count():
            self.page.locator("#live-status[data-state=live]").wait_for()
        return self.page

    def text(self, selector: str) -> str:
        """What an element says, white space joined."""
        return " ".join(self.page.locator(selector).inner_text().split())

    def close(self) -> None:
        """Close the window."""
        self.context.close()

    def check_clean(self) -> None:
        """No script error, no policy violation, nothing asked of another machine."""
        assert self.troubles == []

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.base_url}/", "data:", "blob:")):
            self.troubles.append(f"left the machine: {request.url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        # The browser itself notes each refused request; what the page makes of it is tested.
        if message.type in ("error", "warning") and not message.text.startswith(_REFUSED):
            self.troubles.append(f"console {message.type}: {message.text}")


def seconds_until(condition: Callable[[], bool], within_s: float = 10.0) -> float:
    """How long until the condition holds; AssertionError when it does not in time."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > within_s:
            raise AssertionError(f"not within {within_s} s")
        time.sleep(0.02)
    return time.monotonic() - start
