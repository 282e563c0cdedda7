"""A store's URL means one place, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamlearn.config import S3, Store
from streamlearn.registry.open import open_store

LOCAL = S3(endpoint_url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("file:///srv/my%20models", "file:///srv/my%20models"),
        ("file://localhost/srv/models", "file:///srv/models"),
        ("/srv/models#2", "file:///srv/models%232"),
        ("s3://models/streamlearn", "s3://models/streamlearn"),
        ("s3://models/a/b/", "s3://models/a/b"),
        ("s3://models", "s3://models"),
        ("s3://models/", "s3://models"),
    ],
)
def test_a_store_s_url_is_where_it_is(url: str, shown: str) -> None:
    assert open_store(Store(url=url, s3=LOCAL)).url == shown


def test_a_bare_path_is_relative_to_here_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert open_store(Store(url="models")).url == (tmp_path / "models").as_uri()
    assert open_store(Store(url="~/models")).url == (tmp_path / "home" / "models").as_uri()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://models/a//b", "a part that is empty"),
        ("s3://models/../other", "a part that is empty, '.' or '..'"),
        ("s3://models/x?versionId=1", "goes on after"),
        ("s3://models/x#y", "goes on after"),
        ("file:///srv/models#2", "goes on after"),
        ("file://srv/models", "three slashes"),
        ("file:models", "three slashes"),
        ("file://", "three slashes"),
        ("gs://models/x", "write s3://bucket/prefix"),
        ("https://models.s3.amazonaws.com", "write s3://bucket/prefix"),
        ("s3://[models/x", "no URL"),
    ],
)
def test_a_url_that_could_mean_another_place_is_refused(url: str, words: str) -> None:
    """A lineage in the wrong place is found months later."""
    with pytest.raises(ValueError, match=words):
        open_store(Store(url=url, s3=LOCAL))


@pytest.mark.parametrize("url", ["s3://key:hush@models/x", "s3://key:hush@models/x?y", "https://key:hush@h/models"])
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="move them to store") as refusal:
        open_store(Store(url=url, s3=LOCAL))
    assert "hush" not in str(refusal.value)
