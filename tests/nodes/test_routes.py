"""Routes of this pack on ComfyUI's own running server, asked over sockets as a browser, a program or an attacker would.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_routes.py
"""

import gzip

import pytest

from gloria_pack.gloria_core.errors import GloriaError
from gloria_pack.nodes.bridge.paths import annotated_file
from gloria_pack.nodes.bridge.routes import HEADER, MAX_BODY_BYTES, PREFIX, Picture, get, post

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
def calls():
    """What the changing routes below were asked to do."""
    return []


@pytest.fixture(scope="module")
def page_routes(calls):
    def fail(values):
        raise GloriaError("The number is 3, expected 4: count again.") if values else RuntimeError("private detail")

    return [
        get("test/echo/{part}", lambda values: values),
        get("test/file", lambda values: annotated_file(values.get("name", ""))),
        get("test/picture", lambda values: Picture(PICTURE, "image/webp")),
        post("test/change", lambda values: calls.append(values) or {"changed": values}),
        post("test/small", lambda values: calls.append(values), max_bytes=32),
        post("test/fail", fail),
    ]


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


@pytest.fixture
def change(page_server, calls):
    """A POST as our page sends it, but for what is given; a header given as None is left out."""

    def send(body=b'{"a": 1}', path="test/change", **headers):
        sent = {HEADER: "1", "Content-Type": "application/json", **headers}
        kept = {name: value for name, value in sent.items() if value is not None}
        before = len(calls)
        answer = page_server.ask("POST", f"{PREFIX}/{path}", body, **kept)
        answer.has_run = len(calls) > before
        return answer

    return send


def named(page_server, name, **headers):
    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    return page_server.ask("GET", f"{PREFIX}/test/file?name={quoted}", **headers)


def test_our_page_may_ask_and_change_with_and_without_the_api_prefix(page_server, change):
    page = {"Origin": page_server.origin, "Sec-Fetch-Site": "same-origin"}
    answer = change(**page)
    assert (answer.status, answer.json, answer.has_run) == (200, {"changed": {"a": 1}}, True)
    assert change(**{"Content-Type": "application/json; charset=utf-8"}).status == 200
    for prefix in ("", "/api"):
        answer = page_server.ask("GET", f"{prefix}{PREFIX}/test/echo/one?b=2", **page)
        assert (answer.status, answer.json) == (200, {"b": "2", "part": "one"})
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_program_that_sends_no_origin_may_change(change):
    assert change().has_run


@pytest.mark.parametrize("origin", [
    "https://foreign.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost:{port}",
    "http://foreign.example:{port}", "file://", "ftp://127.0.0.1:{port}",
])  # fmt: skip
def test_another_origin_is_refused(page_server, change, origin):
    origin = origin.replace("{port}", str(page_server.port))
    answer = change(Origin=origin)
    assert (answer.status, answer.has_run) == (403, False)
    assert page_server.ask("GET", f"{PREFIX}/test/echo/one", Origin=origin).status == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:{port}.foreign.example", "http://127.0.0.1:nan", "http://["])
def test_an_origin_that_is_no_address_changes_nothing(page_server, change, origin):
    answer = change(Origin=origin.replace("{port}", str(page_server.port)))
    assert (answer.status == 200, answer.has_run) == (False, False)  # ComfyUI itself stumbles over some of them


@pytest.mark.parametrize("host", ["studio.example:8188", "192.168.1.20:8188", "studio.example", "[fd00::1]:8188"])
def test_origin_is_checked_on_every_host_and_not_only_on_localhost(change, host):
    assert change(Host=host, Origin=f"http://{host}").has_run
    assert change(Host=host, Origin=f"https://{host}").has_run
    assert change(Host=host, Origin="http://foreign.example").status == 403
    assert change(Host=host, Origin="null").status == 403


def test_default_ports_are_the_same_written_or_not(change):
    assert change(Host="studio.example:80", Origin="http://studio.example").has_run
    assert change(Host="studio.example", Origin="https://studio.example:443").has_run
    assert change(Host="studio.example:80", Origin="https://studio.example").status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "anything"])
def test_a_browser_that_says_the_request_is_foreign_is_believed(page_server, change, site):
    assert change(**{"Sec-Fetch-Site": site}).status == 403
    opened = page_server.ask("GET", f"{PREFIX}/test/echo/one", **{"Sec-Fetch-Site": site}).status
    assert opened == (200 if site == "none" else 403)  # 'none': typed into the address bar


@pytest.mark.parametrize("value", [None, "", "0", "true"])
def test_a_change_needs_the_header(change, value):
    answer = change(**{HEADER: value})
    assert (answer.status, answer.has_run) == (403, False)


@pytest.mark.parametrize("content_type", [
    None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json",
    "application/jsonp",
])  # fmt: skip
def test_a_change_must_be_json(change, content_type):
    answer = change(**{"Content-Type": content_type})
    assert (answer.status, answer.has_run) == (415, False)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"null", b"\xff\xfe", b'{"a":' * 10_000])
def test_a_body_that_is_no_json_object_is_refused(change, body):
    answer = change(body)
    assert (answer.status, answer.has_run) == (400, False)


def sized(num_bytes):
    return b'{"a": "' + b"x" * (num_bytes - 9) + b'"}'


def test_the_size_limit_is_exact(change):
    assert change(sized(MAX_BODY_BYTES)).has_run
    assert change(sized(32), "test/small").has_run
    for answer in (change(sized(MAX_BODY_BYTES + 1)), change(sized(33), "test/small")):
        assert (answer.status, answer.has_run) == (413, False)


def test_no_way_of_sending_gets_around_the_size_limit(change):
    large = sized(MAX_BODY_BYTES * 20)
    chunked = change(iter([large]), **{"Transfer-Encoding": "chunked"})
    assert (chunked.status, chunked.has_run) == (413, False)
    packed = change(gzip.compress(large), **{"Content-Encoding": "gzip"})
    assert len(gzip.compress(large)) < MAX_BODY_BYTES
    assert (packed.status, packed.has_run) == (413, False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_changes_come_only_by_post(page_server, calls, method):
    before = len(calls)
    sent = {HEADER: "1", "Content-Type": "application/json"}
    page_server.ask(method, f"{PREFIX}/test/change", None if method in ("GET", "HEAD") else b"{}", **sent)
    assert len(calls) == before


def test_files_inside_comfyuis_folders_are_sent_as_what_they_are(page_server, files):
    for name in ("face.png", "sub/face.png", "face.png [input]", "made.png [output]", "made.png[output]"):
        answer = named(page_server, name)
        assert (answer.status, answer.body) == (200, PICTURE)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_picture_made_for_the_answer_is_sent_as_it_is(page_server):
    answer = page_server.ask("GET", f"{PREFIX}/test/picture")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, PICTURE, "image/webp")


def test_a_part_of_a_file_can_be_asked_for(page_server, files):
    answer = named(page_server, "face.png", Range="bytes=1-3")
    assert (answer.status, answer.body) == (206, PICTURE[1:4])


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_and_absent_get_the_same_answer(page_server, files, name):
    absent = named(page_server, "surely absent.png")
    answer = named(page_server, name)
    assert (answer.status, answer.body) == (absent.status, absent.body)
    assert (answer.status, MISSING in answer.json["error"]) == (404, True)


@pytest.mark.parametrize("name", ["page.html", "drawing.svg"])
def test_files_in_which_scripts_could_run_are_not_sent(page_server, files, name):
    assert named(page_server, name).status == 404


@pytest.mark.parametrize("path", [
    "/gloria/../../secret.png", "/gloria/%2e%2e/%2e%2e/secret.png", "/gloria/test/echo/..%2f..%2fsecret.png",
    "/gloria", "/gloria/", "/gloria/test", "/gloria//etc/passwd", "/extensions/../secret.png",
])  # fmt: skip
def test_no_path_reads_or_lists_a_folder(page_server, files, path):
    answer = page_server.ask("GET", path)
    assert SECRET not in answer.body
    assert answer.status in (403, 404) or answer.json == {"part": "../../secret.png"}


def test_what_the_user_can_mend_is_told_and_what_is_our_bug_is_not(change):
    told = change(path="test/fail")
    assert (told.status, told.json) == (400, {"error": "The number is 3, expected 4: count again."})
    hidden = change(b"{}", "test/fail")
    assert hidden.status == 500
    assert b"private detail" not in hidden.body
