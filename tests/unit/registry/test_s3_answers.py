"""What an S3 server says, and what we make of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import SecretStr

from streamlearn.config import S3
from streamlearn.ports import Conflict, NotFound, StoreRefused, StoreUnavailable, StreamlearnError
from streamlearn.registry.s3 import S3Store
from streamlearn.registry.s3_answers import CredentialsRefused, Place, meaning

PLACE = Place(bucket="models", url="s3://models/x", endpoint="http://store")

TOLD: list[tuple[str, str, type[StreamlearnError], str]] = [
    ("PreconditionFailed", "412", Conflict, "exists already, or is no longer"),
    ("", "412", Conflict, "news/a"),
    # An error in the body of a 200, which botocore shows as a 500.
    ("PreconditionFailed", "500", Conflict, "news/a"),
    ("SlowDown", "200", StoreUnavailable, "answers SlowDown"),
    ("InternalError", "200", StoreUnavailable, "answers InternalError"),
    ("ConditionalRequestConflict", "409", StoreUnavailable, "ConditionalRequestConflict"),
    ("OperationAborted", "409", StoreUnavailable, "OperationAborted"),
    ("SlowDown", "503", StoreUnavailable, "SlowDown"),
    ("", "502", StoreUnavailable, "answers 502"),
    ("TooManyRequests", "429", StoreUnavailable, "TooManyRequests"),
    ("RequestTimeTooSkewed", "403", StoreUnavailable, "set this machine's clock"),
    ("SomethingNew", "500", StoreUnavailable, "SomethingNew"),
    ("NoSuchKey", "404", NotFound, "no object news/a in s3://models/x"),
    ("404", "404", NotFound, "no object news/a"),
    ("NoSuchBucket", "404", StoreRefused, "bucket 'models' does not exist at http://store: create it"),
    ("AccessDenied", "403", CredentialsRefused, r"refuses our credentials.*\(AccessDenied\)"),
    ("SignatureDoesNotMatch", "403", CredentialsRefused, "refuses our credentials"),
    ("ExpiredToken", "400", CredentialsRefused, "its expiry"),
    ("XMinioStorageFull", "507", StoreRefused, "no space left"),
    ("NotImplemented", "501", StoreRefused, "does not implement"),
    ("InvalidArgument", "400", StoreRefused, r"refuses news/a: InvalidArgument \(HTTP 400\)"),
    ("", "", StoreRefused, "refuses news/a"),
]


@pytest.mark.parametrize(("code", "status", "kind", "words"), TOLD)
def test_each_answer_is_conflict_absence_patience_or_refusal(
    code: str, status: str, kind: type[StreamlearnError], words: str
) -> None:
    """What passes is waited out, what does not is told at once with the mend."""
    with pytest.raises(kind, match=words) as told:
        raise meaning(PLACE, "news/a", code=code, status=status)
    assert type(told.value) is kind
    assert "\n" not in str(told.value)


class Answers(BaseHTTPRequestHandler):
    """Gives every request the answer of its class."""

    protocol_version = "HTTP/1.1"  # or a client that expects "100 Continue" waits for it in vain
    status, body, headers_ = 200, b"", dict[str, str]()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in ({"Content-Length": str(len(self.body)), "Connection": "close"} | self.headers_).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        return


@pytest.fixture
def answers() -> Iterator[tuple[type[Answers], S3Store]]:
    """A server that says what a test tells it to, and a store on it."""
    told = type("Told", (Answers,), {})
    server = HTTPServer(("127.0.0.1", 0), told)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    settings = S3(
        endpoint_url=f"http://user:hush@127.0.0.1:{server.server_port}",
        access_key_id=SecretStr("a"),
        secret_access_key=SecretStr("hush-hush"),
    )
    yield told, S3Store("models", "x", settings)
    server.shutdown()
    thread.join()
    server.server_close()


def error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message></Error>'.encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, error("InternalError"), StoreUnavailable),
        (200, error("SlowDown"), StoreUnavailable),
        (503, b"<html>busy</html>", StoreUnavailable),
        (409, error("ConditionalRequestConflict"), StoreUnavailable),
        (412, error("PreconditionFailed"), Conflict),
        (412, b"", Conflict),
        (403, b"", CredentialsRefused),
    ],
)
def test_a_write_is_answered_in_the_port_s_words(
    answers: tuple[type[Answers], S3Store], status: int, body: bytes, kind: type[StreamlearnError]
) -> None:
    told, store = answers
    told.status, told.body = status, body

    with pytest.raises(kind) as raised:
        store.create("news/a", b"1")
    assert type(raised.value) is kind
    assert "hush" not in str(raised.value)


def test_a_server_that_is_no_store_is_named(answers: tuple[type[Answers], S3Store]) -> None:
    """A port of something else answers 404 to everything, which is no missing object when we write."""
    told, store = answers
    told.status, told.body = 404, b"<html>not here</html>"

    for write in (lambda: store.create("news/a", b"1"), store.probe):
        with pytest.raises(StoreRefused, match="endpoint_url that of an S3 server"):
            write()


def test_a_body_that_is_cut_short_is_an_absence(answers: tuple[type[Answers], S3Store]) -> None:
    """Half an object is asked for again, not taken."""
    told, store = answers
    told.body, told.headers_ = b"half", {"Content-Length": "8", "ETag": '"1"'}

    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.get("news/a")


@pytest.mark.parametrize(
    ("bucket", "settings", "words"),
    [
        ("No_Such Bucket!", S3(endpoint_url="http://127.0.0.1:9"), "mend store.url"),
        ("models", S3(endpoint_url="127.0.0.1:9000"), "write http://host:port"),
        ("models", S3(ca_bundle="/nowhere/ca.pem"), "is no file"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(bucket: str, settings: S3, words: str) -> None:
    """Waiting five minutes would not mend them."""
    with pytest.raises(StoreRefused, match=words):
        S3Store(bucket, "x", settings).get("news/a")


def test_missing_credentials_say_where_they_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(StoreRefused, match="no usable credentials: set AWS_ACCESS_KEY_ID"):
        S3Store("models", "x", S3(endpoint_url="http://127.0.0.1:9")).get("news/a")

    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match="ProfileNotFound"):
        S3Store("models", "x", S3(endpoint_url="http://127.0.0.1:9"))


def test_keys_that_cannot_be_renewed_are_waited_for_once_they_have_worked(
    answers: tuple[type[Answers], S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token service that is away for a minute must not end a worker; one that never answered is a wrong setting."""
    told, _ = answers
    told.headers_ = {"ETag": '"1"'}
    program = tmp_path / "keys"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")

    def give(seconds: float) -> None:
        until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        keys = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "hush", "SessionToken": "t", "Expiration": until}
        program.write_text(f"print({json.dumps(json.dumps(keys))})")

    program.write_text("raise SystemExit('no keys today')")
    settings = S3(endpoint_url=answers[1]._where.replace("//", "//user:hush@"))
    with pytest.raises(StoreRefused, match=r"no usable credentials.*CredentialRetrievalError"):
        S3Store("models", "x", settings).get("news/a")

    give(seconds=60)  # botocore renews what ends within ten minutes at every request
    store = S3Store("models", "x", settings)
    assert store.get("news/a").etag == '"1"'
    program.write_text("raise SystemExit('no keys today')")
    with pytest.raises(StoreUnavailable, match=r"credentials cannot be renewed: .*no keys today"):
        store.get("news/a")
    give(seconds=-60)
    with pytest.raises(StoreUnavailable, match="still expired"):
        store.get("news/a")
    give(seconds=3600)
    assert store.get("news/a").etag == '"1"'
