"""A question and a picture enter, the text of an OpenAI-compatible chat endpoint leaves, chosen by name.

Names, addresses and keys live in a file on the server, named by the environment variable GLORIA_ENDPOINTS:

    endpoints:
      local-vlm: {url: "http://127.0.0.1:8000/v1", model: qwen3-vl, allow_addresses: ["127.0.0.1"]}
      hosted:    {url: "https://api.example.com/v1", model: some-vlm, key_env: EXAMPLE_API_KEY}

A workflow only ever holds the name. Redirects are not followed, proxies of the environment are not used, addresses of
private networks are refused unless listed, and the address that was checked is the one that is connected to.
"""

import base64
import http.client
import ipaddress
import json
import os
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError, GloriaError
from ..strict import parse

ENDPOINTS_VARIABLE = "GLORIA_ENDPOINTS"
_READ_BYTES = 1 << 14


class EndpointError(GloriaError):
    """An endpoint that did not answer; the message holds neither key nor answer."""

    def __init__(self, message: str, is_worth_retrying: bool) -> None:
        super().__init__(message)
        self.is_worth_retrying = is_worth_retrying


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One entry of the file."""

    url: str
    """Up to /v1."""
    model: str
    key_env: str | None = None
    """Environment variable that holds the key."""
    allow_addresses: tuple[str, ...] = ()
    """Private addresses or networks that may be connected to."""
    timeout_seconds: float = 60.0
    """For a whole answer."""
    max_bytes: int = 1 << 18
    attempts: int = 3

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError("url must be http(s)://host[:port]/path without user, password and query.")
        if not (self.timeout_seconds > 0 and self.max_bytes > 0 and 1 <= self.attempts <= 10):
            raise ConfigError("timeout_seconds and max_bytes must be positive, attempts 1 to 10.")
        for network in self.allow_addresses:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"allow_addresses: '{network}' is no address or network.") from error


@dataclass(frozen=True, kw_only=True)
class _Endpoints:
    endpoints: dict[str, Endpoint]


def find_endpoint(name: str, file: Path | None = None) -> Endpoint:
    """The endpoint of this name.

    Raises:
        ConfigError: No file, a wrong one, or no such name.
    """
    import yaml

    place = file or (Path(os.environ[ENDPOINTS_VARIABLE]) if os.environ.get(ENDPOINTS_VARIABLE) else None)
    if place is None:
        raise ConfigError(f"The endpoint '{name}' is unknown: set {ENDPOINTS_VARIABLE} to a file of endpoints.")
    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # The text of a YAML error quotes the file.
        raise ConfigError(f"The file of endpoints {place} cannot be read ({type(error).__name__}).") from None
    endpoints = parse(_Endpoints, content, str(place), ConfigError).endpoints
    if name not in endpoints:
        raise ConfigError(f"There is no endpoint '{name}' in {place}. It has {', '.join(endpoints) or 'none'}.")
    return endpoints[name]


def ask(endpoint: Endpoint, question: str, picture_jpeg: bytes, schema: dict[str, Any]) -> str:
    """The answer's text, at temperature 0; one attempt.

    Args:
        schema: JSON schema of the answer, for endpoints that can be held to one.

    Raises:
        EndpointError: No answer.
    """
    picture = "data:image/jpeg;base64," + base64.b64encode(picture_jpeg).decode()
    body = {
        "model": endpoint.model,
        "temperature": 0,
        "max_tokens": 200,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": question},
                    {"type": "image_url", "image_url": {"url": picture}},
                ],
            }
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    }
    answer = _post(endpoint, "/chat/completions", json.dumps(body).encode())
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise EndpointError("the answer is no chat completion", is_worth_retrying=True) from None
    if not isinstance(text, str):
        raise EndpointError("the answer is no text", is_worth_retrying=True)
    return text


def _post(endpoint: Endpoint, path: str, body: bytes) -> bytes:
    parts = urlsplit(endpoint.url)
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Host": parts.netloc}
    if endpoint.key_env is not None:
        key = os.environ.get(endpoint.key_env)
        if not key:
            raise EndpointError(f"the variable {endpoint.key_env} with the key is not set", is_worth_retrying=False)
        headers["Authorization"] = f"Bearer {key}"
    deadline = time.monotonic() + endpoint.timeout_seconds
    try:
        connection = _connected(endpoint, parts.scheme == "https", parts.hostname or "", parts.port, deadline)
    except (OSError, UnicodeError) as error:
        raise EndpointError(f"no connection ({type(error).__name__})", is_worth_retrying=True) from None
    try:
        # The connection lets go of it when the other side will close.
        sock = connection.sock
        connection.request("POST", parts.path.rstrip("/") + path, body, headers)
        sock.settimeout(_left(deadline))
        response = connection.getresponse()
        if 300 <= response.status < 400:
            raise EndpointError(f"it answered with a redirect ({response.status})", is_worth_retrying=False)
        if response.status != 200:
            again = response.status in (408, 429) or response.status >= 500
            raise EndpointError(f"it answered with status {response.status}", is_worth_retrying=again)
        return _read(response, sock, endpoint.max_bytes, deadline)
    except TimeoutError:
        raise EndpointError(f"no answer within {endpoint.timeout_seconds:g} s", is_worth_retrying=True) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, EndpointError):
            raise
        # What a library says may quote headers.
        raise EndpointError(f"the connection broke ({type(error).__name__})", is_worth_retrying=True) from None
    finally:
        connection.close()


def _connected(
    endpoint: Endpoint, is_secure: bool, host: str, port: int | None, deadline: float
) -> http.client.HTTPConnection:
    """A connection to an address that was checked, not to a name that may resolve anew."""
    port = port or (443 if is_secure else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    address = _allowed([str(entry[4][0]) for entry in found], endpoint.allow_addresses)
    raw = socket.create_connection((address, port), timeout=_left(deadline))
    connection = http.client.HTTPConnection(host, port)
    try:
        raw.settimeout(_left(deadline))
        connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if is_secure else raw
    except BaseException:
        raw.close()
        raise
    return connection


def _allowed(addresses: list[str], listed: tuple[str, ...]) -> str:
    """The first address that may be connected to."""
    networks = [ipaddress.ip_network(network) for network in listed]
    for text in addresses:
        address = ipaddress.ip_address(text.split("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        if address.is_global and not address.is_multicast:
            return text
        if any(address.version == network.version and address in network for network in networks):
            return text
    raise EndpointError("its address is private and not in allow_addresses", is_worth_retrying=False)


def _read(response: http.client.HTTPResponse, sock: socket.socket, max_bytes: int, deadline: float) -> bytes:
    """The body, if it is short enough and comes in time; many slow pieces do not stretch the time."""
    pieces, size = [], 0
    while True:
        if not response.isclosed():
            sock.settimeout(_left(deadline))
        piece = response.read1(_READ_BYTES)
        if not piece:
            return b"".join(pieces)
        size += len(piece)
        if size > max_bytes:
            raise EndpointError(f"the answer is longer than {max_bytes} bytes", is_worth_retrying=False)
        pieces.append(piece)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
