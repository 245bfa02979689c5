"""Routes of this pack on ComfyUI's own running server, asked over sockets as a browser, a program or an attacker would.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_routes.py
"""

import asyncio
import gzip
import http.client
import json
import threading
from types import SimpleNamespace

import pytest
import server as comfyui_server
from aiohttp import web

from gloria_pack.gloria_core.errors import GloriaError
from gloria_pack.nodes.bridge.paths import annotated_file
from gloria_pack.nodes.bridge.routes import HEADER, MAX_BODY_BYTES, PREFIX, get, post, register_routes

PICTURE = b"\x89PNG not really"
SECRET = b"not for the page"
MISSING = "There is no such file"
OUTSIDE = [
    "../secret.png", "..%2fsecret.png", "sub/../../secret.png", "/etc/passwd", "//etc/passwd", "..", ".", "", "sub",
    "sub/", "..\\secret.png", "C:/secret.png", "out.png", "linked/secret.png", "a\0.png", "x" * 1001,
    "../input_secret/a.png", "../secret.png [output]", "../input/face.png", "absent.png", "../absent.png",
    "absent.png [temp]", "out.png [input]",
]  # fmt: skip


@pytest.fixture(scope="module")
def running(base_directory):
    """ComfyUI's PromptServer with every middleware, listening, with the routes below beside ComfyUI's own."""
    calls = []

    def fail(values):
        raise GloriaError("The number is 3, expected 4: count again.") if values else RuntimeError("private detail")

    started, loop = threading.Event(), asyncio.new_event_loop()
    state = SimpleNamespace(calls=calls, port=0)

    async def serve():
        prompt_server = comfyui_server.PromptServer(loop)
        register_routes(
            [
                get("test/echo/{part}", lambda values: values),
                get("test/file", lambda values: annotated_file(values.get("name", ""))),
                post("test/change", lambda values: calls.append(values) or {"changed": values}),
                post("test/small", lambda values: calls.append(values), max_bytes=32),
                post("test/fail", fail),
            ]
        )
        prompt_server.add_routes()
        runner = web.AppRunner(prompt_server.app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        state.port = site._server.sockets[0].getsockname()[1]
        started.set()
        return runner

    def run():
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(60)
    yield state
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    del comfyui_server.PromptServer.instance  # the nodes' other tests run without a server


@pytest.fixture
def files(base_directory):
    """Pictures inside ComfyUI's folders, one outside, and a link that leads there."""
    folder, outside = base_directory / "input", base_directory / "secret.png"
    (folder / "sub").mkdir(exist_ok=True)
    (base_directory / "input_secret").mkdir(exist_ok=True)
    for path in (folder / "face.png", folder / "sub" / "face.png", base_directory / "output" / "made.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PICTURE)
    for path in (outside, base_directory / "input_secret" / "a.png"):
        path.write_bytes(SECRET)
    for link, target in ((folder / "out.png", outside), (folder / "linked", base_directory)):
        if not link.is_symlink():
            link.symlink_to(target)
    (folder / "page.html").write_text("<script>")
    (folder / "drawing.svg").write_text("<svg/>")
    return folder


class Asked(SimpleNamespace):
    @property
    def json(self):
        return json.loads(self.body)


def ask(running, method, path, body=None, **headers):
    """One request exactly as written: nothing tidies the path or adds a header besides Host."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, path, skip_host="Host" in shown, skip_accept_encoding=True)
        if body is not None and "Transfer-Encoding" not in shown:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in shown.items():
            connection.putheader(name, value)
        connection.endheaders(body, encode_chunked="Transfer-Encoding" in shown)
        response = connection.getresponse()
        return Asked(status=response.status, headers=response.headers, body=response.read())
    finally:
        connection.close()


def change(running, body=b'{"a": 1}', path="test/change", **headers):
    """A POST as our page sends it, but for what is given; a header given as None is left out."""
    sent = {HEADER: "1", "Content-Type": "application/json", **headers}
    kept = {name: value for name, value in sent.items() if value is not None}
    before = len(running.calls)
    answer = ask(running, "POST", f"{PREFIX}/{path}", body, **kept)
    answer.has_run = len(running.calls) > before
    return answer


def here(running):
    return f"http://127.0.0.1:{running.port}"


def named(running, name, **headers):
    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    return ask(running, "GET", f"{PREFIX}/test/file?name={quoted}", **headers)


def test_our_page_may_ask_and_change_with_and_without_the_api_prefix(running):
    page = {"Origin": here(running), "Sec-Fetch-Site": "same-origin"}
    answer = change(running, **page)
    assert (answer.status, answer.json, answer.has_run) == (200, {"changed": {"a": 1}}, True)
    assert change(running, **{"Content-Type": "application/json; charset=utf-8"}).status == 200
    for prefix in ("", "/api"):
        answer = ask(running, "GET", f"{prefix}{PREFIX}/test/echo/one?b=2", **page)
        assert (answer.status, answer.json) == (200, {"b": "2", "part": "one"})
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_program_that_sends_no_origin_may_change(running):
    assert change(running).has_run


@pytest.mark.parametrize("origin", [
    "https://foreign.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost:{port}",
    "http://foreign.example:{port}", "file://", "ftp://127.0.0.1:{port}",
])  # fmt: skip
def test_another_origin_is_refused(running, origin):
    origin = origin.replace("{port}", str(running.port))
    answer = change(running, Origin=origin)
    assert (answer.status, answer.has_run) == (403, False)
    assert ask(running, "GET", f"{PREFIX}/test/echo/one", Origin=origin).status == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:{port}.foreign.example", "http://127.0.0.1:nan", "http://["])
def test_an_origin_that_is_no_address_changes_nothing(running, origin):
    answer = change(running, Origin=origin.replace("{port}", str(running.port)))
    assert (answer.status == 200, answer.has_run) == (False, False)  # ComfyUI itself stumbles over some of them


@pytest.mark.parametrize("host", ["studio.example:8188", "192.168.1.20:8188", "studio.example", "[fd00::1]:8188"])
def test_origin_is_checked_on_every_host_and_not_only_on_localhost(running, host):
    assert change(running, Host=host, Origin=f"http://{host}").has_run
    assert change(running, Host=host, Origin=f"https://{host}").has_run
    assert change(running, Host=host, Origin="http://foreign.example").status == 403
    assert change(running, Host=host, Origin="null").status == 403


def test_default_ports_are_the_same_written_or_not(running):
    assert change(running, Host="studio.example:80", Origin="http://studio.example").has_run
    assert change(running, Host="studio.example", Origin="https://studio.example:443").has_run
    assert change(running, Host="studio.example:80", Origin="https://studio.example").status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "anything"])
def test_a_browser_that_says_the_request_is_foreign_is_believed(running, site):
    assert change(running, **{"Sec-Fetch-Site": site}).status == 403
    opened = ask(running, "GET", f"{PREFIX}/test/echo/one", **{"Sec-Fetch-Site": site}).status
    assert opened == (200 if site == "none" else 403)  # 'none': typed into the address bar


@pytest.mark.parametrize("value", [None, "", "0", "true"])
def test_a_change_needs_the_header(running, value):
    answer = change(running, **{HEADER: value})
    assert (answer.status, answer.has_run) == (403, False)


@pytest.mark.parametrize("content_type", [
    None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json",
    "application/jsonp",
])  # fmt: skip
def test_a_change_must_be_json(running, content_type):
    answer = change(running, **{"Content-Type": content_type})
    assert (answer.status, answer.has_run) == (415, False)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"null", b"\xff\xfe", b'{"a":' * 10_000])
def test_a_body_that_is_no_json_object_is_refused(running, body):
    answer = change(running, body)
    assert (answer.status, answer.has_run) == (400, False)


def sized(num_bytes):
    return b'{"a": "' + b"x" * (num_bytes - 9) + b'"}'


def test_the_size_limit_is_exact(running):
    assert change(running, sized(MAX_BODY_BYTES)).has_run
    assert change(running, sized(32), "test/small").has_run
    for answer in (change(running, sized(MAX_BODY_BYTES + 1)), change(running, sized(33), "test/small")):
        assert (answer.status, answer.has_run) == (413, False)


def test_no_way_of_sending_gets_around_the_size_limit(running):
    large = sized(MAX_BODY_BYTES * 20)
    chunked = change(running, iter([large]), **{"Transfer-Encoding": "chunked"})
    assert (chunked.status, chunked.has_run) == (413, False)
    packed = change(running, gzip.compress(large), **{"Content-Encoding": "gzip"})
    assert len(gzip.compress(large)) < MAX_BODY_BYTES
    assert (packed.status, packed.has_run) == (413, False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_changes_come_only_by_post(running, method):
    before = len(running.calls)
    sent = {HEADER: "1", "Content-Type": "application/json"}
    ask(running, method, f"{PREFIX}/test/change", None if method in ("GET", "HEAD") else b"{}", **sent)
    assert len(running.calls) == before


def test_files_inside_comfyuis_folders_are_sent_as_what_they_are(running, files):
    for name in ("face.png", "sub/face.png", "face.png [input]", "made.png [output]", "made.png[output]"):
        answer = named(running, name)
        assert (answer.status, answer.body) == (200, PICTURE)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_part_of_a_file_can_be_asked_for(running, files):
    answer = named(running, "face.png", Range="bytes=1-3")
    assert (answer.status, answer.body) == (206, PICTURE[1:4])


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_and_absent_get_the_same_answer(running, files, name):
    absent = named(running, "surely absent.png")
    answer = named(running, name)
    assert (answer.status, answer.body) == (absent.status, absent.body)
    assert (answer.status, MISSING in answer.json["error"]) == (404, True)


@pytest.mark.parametrize("name", ["page.html", "drawing.svg"])
def test_files_in_which_scripts_could_run_are_not_sent(running, files, name):
    assert named(running, name).status == 404


@pytest.mark.parametrize("path", [
    "/gloria/../../secret.png", "/gloria/%2e%2e/%2e%2e/secret.png", "/gloria/test/echo/..%2f..%2fsecret.png",
    "/gloria", "/gloria/", "/gloria/test", "/gloria//etc/passwd", "/extensions/../secret.png",
])  # fmt: skip
def test_no_path_reads_or_lists_a_folder(running, files, path):
    answer = ask(running, "GET", path)
    assert SECRET not in answer.body
    assert answer.status in (403, 404) or answer.json == {"part": "../../secret.png"}


def test_what_the_user_can_mend_is_told_and_what_is_our_bug_is_not(running):
    told = change(running, path="test/fail")
    assert (told.status, told.json) == (400, {"error": "The number is 3, expected 4: count again."})
    hidden = change(running, b"{}", "test/fail")
    assert hidden.status == 500
    assert b"private detail" not in hidden.body
