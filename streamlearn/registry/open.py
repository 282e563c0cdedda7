"""From `store.url` to a store. What a URL means is `store_place`'s in `config.py`."""

from __future__ import annotations

from pathlib import Path

from streamlearn.config import Store, store_place
from streamlearn.ports import ObjectStore
from streamlearn.registry.directory import DirectoryStore


def open_store(settings: Store) -> ObjectStore:
    """Return the store at `s3://bucket/prefix`, `file:///directory` or a bare path; nothing is contacted yet.

    Raises:
        ValueError: the URL is none of these.
        StoreRefused: the settings of S3 make no client.
    """
    place = store_place(settings.url)
    if place.bucket is None:
        return DirectoryStore(Path(place.path).expanduser())
    # boto3 takes half a second to import; a directory needs none of it.
    from streamlearn.registry.s3 import S3Store  # noqa: PLC0415

    return S3Store(place.bucket, place.path, settings.s3)
