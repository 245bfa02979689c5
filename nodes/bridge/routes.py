"""What the page asks enters, JSON or a media file leaves: all HTTP routes of this pack, under one prefix.

GET changes nothing. Whatever changes something is a POST with JSON and a header that no form, link or foreign page
can send, and comes from ComfyUI's own page, whatever host name ComfyUI is reached by. (ComfyUI checks the origin only
where it is reached as localhost.) A file that is missing and one that must not be read get the same answer.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from yarl import URL

from ...gloria_core.errors import GloriaError
from .paths import MissingFileError
from .progress import comfy_server

log = logging.getLogger(__name__)

PREFIX = "/gloria"
HEADER = "X-Gloria-Request"
MAX_BODY_BYTES = 64 << 10
# Only these are sent as files: nothing in which a browser would run a script.
MEDIA_TYPES = {
    ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".wav": "audio/wav",
    ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp",
    ".mp4": "video/mp4", ".webm": "video/webm",
}  # fmt: skip
_OUR_PAGE = {"same-origin"}
_OUR_PAGE_OR_ADDRESS_BAR = {"same-origin", "none"}

Answer = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Route:
    """One address; `get` and `post` make it.

    Args:
        path: below `PREFIX`, with ComfyUI's (aiohttp's) `{name}` parts.
        answer: gets the query (GET) or the JSON object (POST), and the path's parts over both; runs in a thread of its
            own, so it may read files and compute. It returns plain data, the path of a media file, or a `Picture`.
            A `GloriaError` becomes a message for the user.
        max_bytes: largest JSON it takes.
    """

    method: str
    path: str
    answer: Answer
    max_bytes: int


@dataclass(frozen=True)
class Picture:
    """A picture made for one answer."""

    content: bytes
    content_type: str


class _RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def get(path: str, answer: Answer) -> Route:
    """A question that changes nothing."""
    return Route("GET", path, answer, 0)


def post(path: str, answer: Answer, max_bytes: int = MAX_BODY_BYTES) -> Route:
    """A change, or a question too long for an address."""
    return Route("POST", path, answer, max_bytes)


def register_routes(routes: Iterable[Route]) -> None:
    """Add routes to ComfyUI's server, before it starts to listen; scripts that run nodes have no server."""
    server = comfy_server()
    if server is not None:
        for route in routes:
            server.routes.route(route.method, f"{PREFIX}/{route.path}")(_handler(route))


def _handler(route: Route) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            if route.method == "POST":
                values = await _checked_body(request, route.max_bytes)
            else:
                _check_origin(request.headers, _OUR_PAGE_OR_ADDRESS_BAR)
                values = dict(request.query)
            return _response(await asyncio.to_thread(route.answer, {**values, **request.match_info}))
        except _RefusedError as refusal:
            return _json({"error": str(refusal)}, refusal.status)
        except MissingFileError as error:
            return _json({"error": str(error)}, 404)
        except GloriaError as error:
            return _json({"error": str(error)}, 400)
        except Exception:
            log.exception("%s %s failed", route.method, request.path)
            return _json({"error": "This failed for a reason that is in ComfyUI's log."}, 500)

    return handle


async def _checked_body(request: web.Request, max_bytes: int) -> dict[str, Any]:
    _check_origin(request.headers, _OUR_PAGE)
    if request.headers.get(HEADER) != "1":
        raise _RefusedError(403, f"The header {HEADER}: 1 is missing.")
    if request.content_type != "application/json":
        raise _RefusedError(415, f"The content type is {request.content_type}, expected application/json.")
    # Not `request.json`: it takes as much as ComfyUI's largest upload. The length sent says nothing: bodies unpack.
    body = bytearray()
    while len(body) <= max_bytes and (piece := await request.content.readany()):
        body += piece
    if len(body) > max_bytes:
        raise _RefusedError(413, f"The request is larger than {max_bytes} bytes.")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "The request is not JSON.") from error
    if not isinstance(content, dict):
        raise _RefusedError(400, f"The request is a JSON {type(content).__name__}, expected an object.")
    return content


def _check_origin(headers: Mapping[str, str], allowed_sites: set[str]) -> None:
    """Refuse what a browser sends for another page; programs send neither header."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    is_foreign_site = site is not None and site not in allowed_sites
    if is_foreign_site or (origin is not None and not _is_same_host(origin, headers.get("Host", ""))):
        raise _RefusedError(403, "This request comes from another page than ComfyUI's.")


def _is_same_host(origin: str, host: str) -> bool:
    """Whether an Origin header ('null' for sandboxed pages and files) names the host and port that were asked.

    The scheme may differ, because a proxy may take the encryption off.
    """
    try:
        theirs = URL(origin)
        ours = URL(f"{theirs.scheme}://{host}")
    except ValueError:  # a port that is no number, an address that is none
        return False
    is_page = theirs.scheme in ("http", "https") and theirs.host is not None
    return is_page and (theirs.host, theirs.port) == (ours.host, ours.port)


def _response(result: Any) -> web.StreamResponse:
    # A file of the same name may be written anew: the browser asks, and gets "not modified" while it is the same.
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if isinstance(result, Picture):
        return web.Response(body=result.content, content_type=result.content_type, headers=headers)
    if not isinstance(result, Path):
        return _json(result, 200)
    content_type = MEDIA_TYPES.get(result.suffix.lower())
    if content_type is None:
        raise MissingFileError
    return web.FileResponse(result, headers={**headers, "Content-Type": content_type})


def _json(content: Any, status: int) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.json_response(content, status=status, headers=headers)
