"""From `store.url` to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from streamlearn.config import Store
from streamlearn.ports import ObjectStore
from streamlearn.registry.directory import DirectoryStore

_FORMS = "write s3://bucket/prefix, file:///directory or a path"


def open_store(settings: Store) -> ObjectStore:
    """Return the store at `s3://bucket/prefix`, `file:///directory` or a bare path; nothing is contacted yet.

    Raises:
        ValueError: the URL is none of these.
        StoreRefused: the settings of S3 make no client.
    """
    url = settings.url
    if not url.strip():
        raise ValueError(f"store.url is empty: {_FORMS}")
    parts = urlsplit(url)
    if parts.scheme in {"s3", "file"} and (parts.query or parts.fragment or url.endswith(("?", "#"))):
        raise ValueError(f"store.url = {url!r} goes on after '?' or '#', which would be dropped: {_FORMS}")
    if parts.scheme == "s3":
        return _s3(parts, settings)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ValueError(f"store.url = {url!r}: write file:///directory, with three slashes")
        return DirectoryStore(Path(unquote(parts.path)))
    if "://" in url:
        raise ValueError(f"store.url = {url!r}: {_FORMS}")
    return DirectoryStore(Path(url).expanduser())


def _s3(parts: SplitResult, settings: Store) -> ObjectStore:
    if "@" in parts.netloc:
        # Not shown: it holds a secret.
        raise ValueError("store.url holds credentials: move them to store.s3.access_key_id and secret_access_key")
    if not parts.netloc:
        raise ValueError(f"store.url = {settings.url!r} names no bucket: write s3://bucket/prefix")
    if {"", ".", ".."} & set(parts.path.strip("/").split("/")) and parts.path.strip("/"):
        raise ValueError(f"store.url = {settings.url!r}: its prefix has a part that is empty, '.' or '..'")
    # boto3 takes half a second to import; a directory needs none of it.
    from streamlearn.registry.s3 import S3Store  # noqa: PLC0415

    return S3Store(parts.netloc, parts.path, settings.s3)
