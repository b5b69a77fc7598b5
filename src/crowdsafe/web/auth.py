"""Log in over HTTP, and the FastAPI dependencies that say who is asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse

from crowdsafe.errors import CrowdsafeError, Forbidden, NotAuthenticated, TooMany
from crowdsafe.identity import Identity, Login, User
from crowdsafe.identity.passwords import PASSWORD_CHARS_MAX
from crowdsafe.web.client_address import address_key, client_address
from crowdsafe.web.services import services_of

__all__ = [
    "COOKIE",
    "CrossSite",
    "CurrentUser",
    "current_user",
    "optional_user",
    "require",
    "router",
]

COOKIE = "crowdsafe_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_bearer = HTTPBearer(auto_error=False, description="The access token of POST /auth/login.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="Set by the login page.")


class CrossSite(Forbidden):
    """This change was asked for by a page of another site; do it from this site's own page, or
    send the access token in an Authorization header."""

    problem_type = "cross-site"
    title = "Asked for by another site"


class LoginBody(BaseModel):
    """A username and a password."""

    username: Annotated[str, Field(min_length=1, max_length=64, examples=["mara"])]
    password: Annotated[str, Field(min_length=1, max_length=PASSWORD_CHARS_MAX)]


class UserBody(BaseModel):
    """Who is logged in."""

    id: int
    username: str
    name: str
    roles: list[str]


class LoginAnswer(BaseModel):
    """An access token; ``expires_in`` is in seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the name of a scheme, not a secret
    expires_in: int
    user: UserBody


async def current_user(
    request: Request,
    _documented_bearer: Annotated[Any, Depends(_bearer)] = None,
    _documented_cookie: Annotated[Any, Depends(_cookie)] = None,
) -> User:
    """Who is asking: by an ``Authorization: Bearer`` header, or else by the login page's cookie.

    Raises NotAuthenticated; CrossSite for a change asked for by cookie from another site.
    """
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("Send the access token as: Authorization: Bearer <token>.")
        return await _identity(request).user_of(token.strip())
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        raise NotAuthenticated
    if request.method not in _SAFE_METHODS:
        check_same_site(request)
    return await _identity(request).user_of(cookie)


async def optional_user(request: Request) -> User | None:
    """Who is asking, or None for a visitor: for pages that show both."""
    try:
        return await current_user(request)
    except NotAuthenticated:
        return None


CurrentUser = Annotated[User, Depends(current_user)]


def require(*roles: str) -> Callable[..., Awaitable[User]]:
    """A dependency that lets users with any of these roles pass, and gives the User.

    ``Depends(require("sales", "admin"))``. Raises NotAuthenticated (401), Forbidden (403).
    """
    wanted = frozenset(roles)

    async def allowed(user: CurrentUser) -> User:
        check_roles(user, wanted)
        return user

    return allowed


def check_roles(user: User, wanted: frozenset[str]) -> None:
    """Raise Forbidden unless the user has any of these roles."""
    if not wanted & user.roles:
        raise Forbidden(
            f"This needs the role {' or '.join(sorted(wanted))}; you have "
            f"{', '.join(sorted(user.roles)) or 'none'}.",
            required=sorted(wanted),
        )


def check_same_site(request: Request) -> None:
    """Let a change pass only when the browser says that our own page asked for it.

    Sec-Fetch-Site decides where it is sent; otherwise the Origin's host must be ours. Neither
    header: refused, since every browser sends one of them. Raises CrossSite.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise CrossSite
        return
    origin = request.headers.get("origin")
    if origin is None or _netloc(origin) != request.headers.get("host"):
        raise CrossSite


def _netloc(address: str) -> str | None:
    """The host and port in an address, or None when it is no address."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None


router = APIRouter(tags=["login"])


@router.post("/auth/login", summary="Exchange a username and a password for an access token")
async def login(body: LoginBody, request: Request) -> LoginAnswer:
    """401 for a wrong username or password alike; 429 when too many log in at once, and after ten
    wrong passwords in a minute for one user from one address."""
    done = await _logged_in(request, body.username, body.password)
    return LoginAnswer(
        access_token=done.access_token,
        expires_in=done.expires_in_s,
        user=UserBody(**done.user.public()),
    )


@router.get("/auth/me", summary="Who am I")
async def me(user: CurrentUser) -> UserBody:
    """The user whose token or cookie this is."""
    return UserBody(**user.public())


@router.post("/auth/logout", status_code=204, summary="Forget the login page's cookie")
async def logout(request: Request, response: Response) -> None:
    """Deletes the cookie. An access token stays good until it expires."""
    if request.cookies.get(COOKIE):
        check_same_site(request)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")


@router.get("/login", include_in_schema=False)
async def login_page(request: Request, to: str = "/") -> Response:
    """The form; somebody who is logged in goes where they wanted to go."""
    if await optional_user(request) is not None:
        return RedirectResponse(_own_path(to), status_code=303)
    return _login_page(request, to=to)


@router.post("/login", include_in_schema=False)
async def login_form(
    request: Request,
    username: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=PASSWORD_CHARS_MAX)] = "",
    to: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Set the cookie and go on; or show the form again, with what was wrong."""
    check_same_site(request)
    try:
        done = await _logged_in(request, username, password)
    except (NotAuthenticated, TooMany) as error:
        return _login_page(request, to=to, username=username, error=error)
    answer = RedirectResponse(_own_path(to), status_code=303)
    answer.set_cookie(
        COOKIE,
        done.access_token,
        max_age=done.expires_in_s,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return answer


def _login_page(
    request: Request, *, to: str, username: str = "", error: CrowdsafeError | None = None
) -> Response:
    context = {
        "to": _own_path(to),
        "username": username,
        "error": None if error is None else error.message,
    }
    return services_of(request).render(
        request, "login.html", context, 200 if error is None else error.status
    )


def _own_path(to: str) -> str:
    """The path on this site, or ``/``: a login never leads to another site."""
    own = to.startswith("/") and not to.startswith("//") and _netloc(to) == ""
    return to if own and to.isprintable() and "\\" not in to else "/"


async def _logged_in(request: Request, username: str, password: str) -> Login:
    address = address_key(client_address(request, services_of(request).trusted))
    return await _identity(request).login(username, password, address=address)


def _identity(request: Request) -> Identity:
    return services_of(request).identity
