"""The judge against a local endpoint that misbehaves in every way it can.

Run: python -m pytest tests/core/extraction/test_judge.py
"""

import json
import logging
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.errors import ConfigError
from gloria_core.extraction.endpoint import ENDPOINTS_VARIABLE, find_endpoint
from gloria_core.extraction.judge import EndpointJudge

KEY = "sk-very-secret-0123456789"
CROP = (torch.rand(120, 90, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()


class FakeEndpoint:
    """Answers each request by the next of its steps; the last one for all that follow."""

    def __init__(self, steps):
        self.requests, outer = [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), json.loads(body)))
                step = steps[min(len(outer.requests), len(steps)) - 1]
                step(self, json.loads(body))

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers), None))
                self.send_error(404)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def chat(text):
    def step(handler, _body):
        data = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return step


def answers(**answer):
    return chat(json.dumps(answer))


def status(code, **headers):
    def step(handler, _body):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return step


def hangs(handler, _body):
    time.sleep(1.5)


def drips(handler, _body):
    """One byte at a time, so that no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(60):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def floods(handler, _body):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(2000):
            handler.wfile.write(b"x" * 10000)
    except OSError:
        return


@pytest.fixture
def judge_of(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_JUDGE_KEY", KEY)
    started = []

    def make(*steps, **changes):
        fake = FakeEndpoint(steps)
        started.append(fake)
        entry = {
            "url": fake.url, "model": "toy-vlm", "key_env": "TOY_JUDGE_KEY", "allow_addresses": ["127.0.0.1"],
            "timeout_seconds": 0.5, "attempts": 3, "max_bytes": 50_000, **changes,
        }  # fmt: skip
        path = tmp_path / "endpoints.yaml"
        path.write_text(json.dumps({"endpoints": {"toy": entry}}))
        monkeypatch.setenv(ENDPOINTS_VARIABLE, str(path))
        return EndpointJudge("toy", pause_seconds=0.01), fake

    yield make
    for fake in started:
        fake.close()


SURE_SAD = answers(label="sad", confidence=0.95)
YES, NO = answers(answer="yes"), answers(answer="no")


@pytest.mark.parametrize(
    ("steps", "outcome", "label", "asked"),
    [
        ((SURE_SAD, YES), "keep", "sad", 2),
        ((answers(label="sad", confidence=0.2), YES), "keep", "sad", 2),
        ((SURE_SAD, NO), "drop", None, 2),
        ((answers(label="angry", confidence=0.9), YES), "relabel", "angry", 2),
        ((answers(label="angry", confidence=0.9), NO), "drop", None, 2),
        ((answers(label="angry", confidence=0.4),), "drop", None, 1),
        ((answers(label="none", confidence=0.9),), "drop", None, 1),
    ],
)
def test_keep_relabel_or_drop(judge_of, steps, outcome, label, asked):
    judge, fake = judge_of(*steps)
    verdict = judge.judge(CROP, "sad")
    assert (verdict.outcome, verdict.label, verdict.attempts) == (outcome, label, asked)
    assert len(fake.requests) == asked
    path, headers, body = fake.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"]) == ("toy-vlm", 0)
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "sad" not in body["messages"][0]["content"][0]["text"].split("JSON")[1]  # the first question is blind


@pytest.mark.parametrize(
    ("step", "tries", "reason"),
    [
        (hangs, 3, "no answer within 0.5 s"),
        (drips, 3, "no answer within 0.5 s"),
        (status(500), 3, "status 500"),
        (status(429), 3, "status 429"),
        (status(401), 1, "status 401"),
        (chat("The face looks rather sad to me."), 3, "not the JSON"),
        (answers(label="gloomy", confidence=0.9), 3, "'label' is none of those"),
        (answers(label="sad", confidence=7), 3, "'confidence' is none of those"),
        (answers(label=["sad"], confidence=0.5), 3, "'label' is none of those"),
        (answers(label="sad"), 3, "other fields"),
        (answers(label="sad", confidence=0.9, key="x"), 3, "other fields"),
        (chat(None), 3, "no text"),
        (floods, 1, "longer than 50000 bytes"),
    ],
)
def test_misbehaviour_ends_in_a_recorded_verdict_after_bounded_attempts(judge_of, step, tries, reason, caplog):
    caplog.set_level(logging.DEBUG)
    judge, fake = judge_of(step)
    verdict = judge.judge(CROP, "sad")
    assert (verdict.outcome, verdict.label) == ("no answer", None)
    assert reason in verdict.reason
    assert (verdict.attempts, len(fake.requests)) == (tries, tries)
    assert KEY not in caplog.text + repr(verdict) + repr(judge)


def test_a_hiccup_is_outlived(judge_of):
    judge, fake = judge_of(status(503), SURE_SAD, status(502), YES)
    verdict = judge.judge(CROP, "sad")
    assert (verdict.outcome, verdict.attempts, len(fake.requests)) == ("keep", 4, 4)


def test_a_cancel_ends_it_before_the_next_attempt(judge_of):
    judge, fake = judge_of(status(500))
    attempts = []

    def cancel():
        attempts.append(len(fake.requests))
        if len(attempts) == 2:
            raise InterruptedError

    judge.on_attempt = cancel
    with pytest.raises(InterruptedError):
        judge.judge(CROP, "happy")
    assert attempts == [0, 1]
    assert len(fake.requests) == 1


def test_a_redirect_is_not_followed(judge_of):
    target = FakeEndpoint([YES])
    try:
        judge, fake = judge_of(status(302, Location=target.url + "/chat/completions"))
        verdict = judge.judge(CROP, "sad")
        assert verdict.outcome == "no answer"
        assert "redirect (302)" in verdict.reason
        assert (len(fake.requests), len(target.requests)) == (1, 0)
    finally:
        target.close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.1.2.3", "[::ffff:127.0.0.1]"]
)
def test_private_addresses_are_refused_unless_listed(judge_of, host):
    judge, fake = judge_of(YES)
    url = fake.url.replace("127.0.0.1", host)
    refused, fake = judge_of(YES, url=url, allow_addresses=["192.168.0.0/16"])
    verdict = refused.judge(CROP, "sad")
    assert "private and not in allow_addresses" in verdict.reason
    assert verdict.attempts == 1
    assert not fake.requests
    assert judge.judge(CROP, "sad").attempts > 0


def test_a_missing_key_is_named_not_sent(judge_of, monkeypatch):
    judge, fake = judge_of(YES)
    monkeypatch.delenv("TOY_JUDGE_KEY")
    verdict = judge.judge(CROP, "sad")
    assert "TOY_JUDGE_KEY with the key is not set" in verdict.reason
    assert not fake.requests


def test_a_key_that_breaks_the_header_does_not_leak(judge_of, monkeypatch, caplog):
    judge, fake = judge_of(YES)
    monkeypatch.setenv("TOY_JUDGE_KEY", KEY + "\nX-Evil: 1")
    verdict = judge.judge(CROP, "sad")
    assert verdict.outcome == "no answer"
    assert not fake.requests
    assert KEY not in verdict.reason + caplog.text


def test_nobody_listens(judge_of):
    judge, fake = judge_of(YES)
    fake.server.server_close()
    verdict = judge.judge(CROP, "sad")
    assert (verdict.outcome, verdict.attempts) == ("no answer", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "set GLORIA_ENDPOINTS to a file"),
        ("endpoints: {other: {url: 'https://example.com/v1', model: m}}", "no endpoint 'toy'.*It has other"),
        ("endpoints: {toy: {url: 'ftp://example.com', model: m}}", "url must be http"),
        ("endpoints: {toy: {url: 'https://me:pw@example.com/v1', model: m}}", "without user, password"),
        ("endpoints: {toy: {url: 'https://example.com/v1', model: m, key: abc}}", "unknown field.*key"),
        ("endpoints: {toy: {url: 'https://a.b/v1', model: m, allow_addresses: [here]}}", "'here' is no address"),
        ("endpoints: [", "cannot be read .ParserError..$"),
    ],
)
def test_the_file_of_endpoints_is_checked(tmp_path, monkeypatch, text, message):
    monkeypatch.delenv(ENDPOINTS_VARIABLE, raising=False)
    if text is not None:
        (tmp_path / "e.yaml").write_text(text)
        monkeypatch.setenv(ENDPOINTS_VARIABLE, str(tmp_path / "e.yaml"))
    with pytest.raises(ConfigError, match=message):
        find_endpoint("toy")
