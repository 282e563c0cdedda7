"""What every object store promises, asked of every object store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from streamlearn.config import S3, Store
from streamlearn.ports import Conflict, NotFound, ObjectStore, StoreRefused, StoreUnavailable
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.open import open_store
from tests.contract.stores import GIVEN, KINDS, S3_KINDS, fresh_store, patient
from tests.services.ports import free_ports
from tests.services.s3 import S3Server

RACERS = 8


@pytest.fixture(params=[*KINDS, *(f"{kind}, retried" for kind in KINDS)])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    kind, _, retried = request.param.partition(", ")
    plain = fresh_store(kind, request)
    return patient(plain) if retried else plain


@pytest.fixture(params=S3_KINDS)
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


# --- one writer ---------------------------------------------------------------


def test_what_was_written_is_read_back(store: ObjectStore) -> None:
    for name, body in {"empty": b"", "json": b"{}", "binary": bytes(range(256)) * 5}.items():
        etag = store.create(f"news/{name}", body)

        found = store.get(f"news/{name}")

        assert (found.body, found.etag) == (body, etag)


def test_nine_megabytes_come_back_as_they_were(store: ObjectStore) -> None:
    """An adapter is of this size, above what some stores keep in one piece."""
    body = os.urandom(9_000_001)
    etag = store.create("news/checkpoints/a/adapter.safetensors", body)

    assert store.get("news/checkpoints/a/adapter.safetensors").body == body
    assert store.swap("news/checkpoints/a/adapter.safetensors", body[::-1], etag)
    assert store.get("news/checkpoints/a/adapter.safetensors").body == body[::-1]


def test_an_object_is_created_once(store: ObjectStore) -> None:
    """Immutable objects stay what they are."""
    store.create("news/a", b"first")

    with pytest.raises(Conflict, match="news/a"):
        store.create("news/a", b"second")

    assert store.get("news/a").body == b"first"


def test_a_swap_needs_the_tag_of_what_is_there(store: ObjectStore) -> None:
    """A writer that has not seen the last change does not undo it."""
    first = store.create("news/a", b"1")
    second = store.swap("news/a", b"2", first)

    with pytest.raises(Conflict, match="news/a"):
        store.swap("news/a", b"3", first)

    assert store.get("news/a").body == b"2"
    store.swap("news/a", b"4", second)
    assert store.get("news/a").body == b"4"


def test_a_tag_changes_with_the_bytes(store: ObjectStore) -> None:
    first = store.create("news/a", b"1")
    assert store.swap("news/a", b"2", first) != first


def test_what_is_gone_is_not_swapped(store: ObjectStore) -> None:
    """A removed lineage is not brought back by the writer that still ran."""
    etag = store.create("news/a", b"1")
    store.delete("news/a")

    with pytest.raises(Conflict):
        store.swap("news/a", b"2", etag)
    with pytest.raises(NotFound):
        store.get("news/a")


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    """Also where the name is the beginning of another, or goes on behind one."""
    store.create("news/a", b"1")

    for key in ("news/nothing.json", "news", "news/a/b"):
        with pytest.raises(NotFound, match=key):
            store.get(key)


def test_removing_twice_is_no_error(store: ObjectStore) -> None:
    store.create("news/a", b"1")

    store.delete("news/a")
    store.delete("news/a")
    store.delete("other/never/there")

    assert list(store.list("")) == []


def test_a_removed_name_can_be_created_again(store: ObjectStore) -> None:
    store.create("news/a", b"1")
    store.delete("news/a")

    store.create("news/a", b"2")

    assert store.get("news/a").body == b"2"


# --- lists ------------------------------------------------------------------


def test_a_list_is_sorted_and_holds_what_begins_with_the_prefix(store: ObjectStore) -> None:
    for key in ("news/b/2", "news/b/10", "news/a", "news/b-x", "newsletter/a", "other/a"):
        store.create(key, key.encode())

    assert [key for key, _ in store.list("news/")] == ["news/a", "news/b-x", "news/b/10", "news/b/2"]
    assert [key for key, _ in store.list("news/b/1")] == ["news/b/10"]
    assert [key for key, _ in store.list("news")] == ["news/a", "news/b-x", "news/b/10", "news/b/2", "newsletter/a"]
    assert list(store.list("other/")) == [("other/a", 7)]
    assert list(store.list("nothing/")) == []
    assert len(list(store.list(""))) == 6


@pytest.mark.parametrize("kind", ["memory", "directory", "seaweedfs", *GIVEN])
def test_a_list_goes_on_behind_its_first_thousand(kind: str, request: pytest.FixtureRequest) -> None:
    """S3 answers with a thousand keys at a time; a lineage of a day has more."""
    store = fresh_store(kind, request)
    keys = [f"news/ledger/{number:010d}" for number in range(1_050)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.create(key, b"1"), keys))

    assert list(store.list("news/ledger/")) == [(key, 1) for key in keys]


# --- names ------------------------------------------------------------------


UNSAFE = [
    "",
    "/etc/passwd",
    "../a",
    "news/../../a",
    "news//a",
    "news/",
    ".lock",
    "news/.tmp/a",
    "a b",
    "a\n",
    "ü",
    "-a",
]


def test_an_unsafe_name_is_refused_before_anything_is_touched(store: ObjectStore) -> None:
    """An alias from a command line does not become a path outside the store."""
    asks: list[Callable[[str], object]] = [
        store.get,
        lambda key: store.create(key, b"1"),
        lambda key: store.swap(key, b"1", "tag"),
        store.delete,
    ]
    for key in UNSAFE:
        for ask in asks:
            with pytest.raises(ValueError, match="is no name for an object"):
                ask(key)


def test_an_unsafe_prefix_is_refused(store: ObjectStore) -> None:
    for prefix in ("../", "news/../..", "/", "//", "news/../other", ".lock"):
        with pytest.raises(ValueError, match="name"):
            list(store.list(prefix))


# --- several writers ------------------------------------------------------------


def race(write: Callable[[bytes], str], bodies: list[bytes]) -> list[bytes]:
    """Let one thread for each body try at the same time; return the bodies that did not meet a Conflict."""
    start = threading.Barrier(len(bodies))

    def run(body: bytes) -> bytes | None:
        start.wait()
        try:
            write(body)
        except Conflict:
            return None
        return body

    with ThreadPoolExecutor(len(bodies)) as pool:
        return [body for body in pool.map(run, bodies) if body is not None]


def bodies_of(turn: int) -> list[bytes]:
    """Different bytes for every writer and turn: a tag may be a digest, which does not tell equal bytes apart."""
    return [f"writer {number}, turn {turn}".encode() for number in range(RACERS)]


def test_of_many_that_create_one_object_one_wins(store: ObjectStore) -> None:
    """Two new writers of one lineage cannot both begin it."""
    winners = race(partial(store.create, "news/head.json"), bodies_of(turn=1))

    assert winners == [store.get("news/head.json").body]


def test_of_many_that_swap_one_object_one_wins(store: ObjectStore) -> None:
    """Two writers cannot both commit on top of the same head."""
    etag = store.create("news/head.json", b"begin")
    for turn in (1, 2):
        winners = race(partial(store.swap, "news/head.json", etag=etag), bodies_of(turn))

        found = store.get("news/head.json")
        assert winners == [found.body]
        etag = found.etag


def test_a_reader_never_sees_half_an_object(store: ObjectStore) -> None:
    etag, done = store.create("news/a", b"0" * 300_000), threading.Event()
    seen: set[tuple[int, int]] = set()

    def read() -> None:
        while not done.is_set():
            body = store.get("news/a").body
            seen.add((len(body), len(set(body))))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            for number in range(1, 8):
                etag = store.swap("news/a", str(number).encode() * 300_000, etag)
        finally:
            done.set()
        reading.result()

    assert seen == {(300_000, 1)}


# --- the probe ----------------------------------------------------------------


def test_a_probe_leaves_nothing_behind(store: ObjectStore) -> None:
    store.probe()
    store.create("news/a", b"1")
    store.probe()

    assert [key for key, _ in store.list("")] == ["news/a"]


def test_the_address_tells_no_secret(store: ObjectStore) -> None:
    assert "testtest12" not in store.url
    assert store.url.partition(":")[0] in {"memory", "file", "s3"}


def test_foreign_things_beside_our_objects_are_not_listed(server: S3Server) -> None:
    """Consoles leave markers of folders in a bucket, and people leave files."""
    settings = server.store(prefix="line")
    bucket = settings.url.split("/")[2]
    for key in ("line/news/", "line/news/my notes.txt", "line/.hidden"):
        server.client().put_object(Bucket=bucket, Key=key, Body=b"")
    store = open_store(settings)
    store.create("news/a", b"1")

    assert list(store.list("")) == [("news/a", 1)]


def test_two_prefixes_of_a_bucket_do_not_meet(server: S3Server) -> None:
    bucket = server.bucket()
    one, other, root = (open_store(server.store(bucket, prefix)) for prefix in ("one", "one-more", ""))
    one.create("news/a", b"1")

    assert list(other.list("")) == []
    assert list(one.list("")) == [("news/a", 1)]
    assert list(root.list("")) == [("one/news/a", 1)]


# --- refusals ------------------------------------------------------------------


def every_call(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: store.get("news/a"),
        lambda: store.create("news/a", b"1"),
        lambda: store.swap("news/a", b"1", '"00000000000000000000000000000000"'),
        lambda: list(store.list("news/")),
        store.probe,
    ]


def test_a_missing_bucket_is_named_with_the_mend(server: S3Server) -> None:
    for ask in every_call(open_store(server.store("streamlearn-never-made"))):
        with pytest.raises(StoreRefused, match=r"bucket 'streamlearn-never-made' does not exist at http.*create it"):
            ask()


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials_are_refused_without_showing_them(server: S3Server, wrong: str) -> None:
    settings = S3(
        endpoint_url=server.endpoint_url,
        access_key_id=SecretStr("nobody" if wrong == "key" else server.access_key),
        secret_access_key=SecretStr("hush-hush-hush"),
    )
    for ask in every_call(open_store(Store(url=f"s3://{server.bucket()}/x", s3=settings))):
        with pytest.raises(StoreRefused, match="refuses our credentials") as refusal:
            ask()
        assert "hush" not in str(refusal.value)


def test_a_bucket_that_was_deleted_is_told_from_a_lost_race(server: S3Server) -> None:
    """A writer whose bucket is gone must not believe that another has taken over."""
    settings = server.store()
    store, bucket = open_store(settings), settings.url.split("/")[2]
    etag = store.create("news/head.json", b"1")
    server.client().delete_object(Bucket=bucket, Key="streamlearn/news/head.json")
    server.client().delete_bucket(Bucket=bucket)

    with pytest.raises(StoreRefused, match=f"bucket '{bucket}' does not exist"):
        store.swap("news/head.json", b"2", etag)


def test_keys_that_were_changed_in_their_file_are_taken_up(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renews a secret need not restart the worker; boto3 reads the file only once."""
    file = tmp_path / "credentials"

    def write(secret: str) -> None:
        token = f"aws_session_token = {server.session_token}" if server.session_token else ""
        file.write_text(
            f"[default]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {secret}\n{token}"
        )

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    settings = Store(url=f"s3://{server.bucket()}/x", s3=S3(endpoint_url=server.endpoint_url))
    write("of yesterday")
    store = open_store(settings)
    with pytest.raises(StoreRefused, match="refuses our credentials"):
        store.create("news/a", b"1")

    write(server.secret_key)
    with pytest.raises(StoreUnavailable, match="boto3 finds others now"):
        store.create("news/a", b"1")
    assert store.create("news/a", b"1")

    write("of tomorrow")
    assert store.get("news/a").body == b"1", "what works is not looked up again"


def test_a_closed_port_is_an_absence_not_a_refusal() -> None:
    """It may come back, so it is waited for."""
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = S3(endpoint_url=endpoint, access_key_id=SecretStr("a"), secret_access_key=SecretStr("hush"))
    for ask in every_call(open_store(Store(url="s3://models/x", s3=settings))):
        with pytest.raises(StoreUnavailable, match=f"s3://models/x: {endpoint} does not answer") as absence:
            ask()
        assert "hush" not in str(absence.value)


@pytest.mark.parametrize(
    ("condition", "words"),
    [("IfNoneMatch", "ignores If-None-Match"), ("IfMatch", "ignores If-Match on a missing object")],
)
def test_a_store_that_ignores_conditions_is_refused(server: S3Server, condition: str, words: str) -> None:
    """Rather than losing a lineage to two writers later."""
    settings = server.fresh()
    store = open_store(settings)

    def forget(params: dict[str, Any], **_: object) -> None:
        params.pop(condition, None)

    # The server itself, asked without the condition: what a store that ignores it would do.
    store._access.client.meta.events.register("provide-client-params.s3.PutObject", forget)  # type: ignore[attr-defined]

    with pytest.raises(StoreRefused, match=words) as refusal:
        store.probe()

    assert settings.url in str(refusal.value)
    assert "SeaweedFS" in str(refusal.value)
    assert list(store.list("")) == []


def test_a_store_that_ignores_if_match_on_what_is_there_is_refused(server: S3Server) -> None:
    """Old stores knew the condition for missing objects only."""
    store = open_store(server.fresh())
    written: set[str] = set()

    def forget(params: dict[str, Any], **_: object) -> None:
        if params["Key"] in written:
            params.pop("IfMatch", None)
        if "IfNoneMatch" in params:
            written.add(params["Key"])

    store._access.client.meta.events.register("provide-client-params.s3.PutObject", forget)  # type: ignore[attr-defined]

    with pytest.raises(StoreRefused, match=r"ignores If-Match, so"):
        store.probe()
    assert list(store.list("")) == []


def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    """Found at the start, not after the first hour of learning."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(StoreRefused, match="check that it is a directory we may write to"):
        DirectoryStore(tmp_path / "file").probe()
