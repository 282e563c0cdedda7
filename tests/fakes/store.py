"""An object store in memory, and stores that misbehave in one way each."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from streamlearn.ports import Conflict, NotFound, ObjectStore, StoredObject, StoreUnavailable
from streamlearn.registry.keys import checked, checked_prefix

Answer = TypeVar("Answer")


class MemoryStore:
    """Objects in a dictionary; as on S3, equal bytes have equal etags."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return "memory:"

    def get(self, key: str) -> StoredObject:
        with self._lock:
            body = self.objects.get(checked(key))
        if body is None:
            raise NotFound(f"no object {key} in {self.url}")
        return StoredObject(body=body, etag=_etag(body))

    def create(self, key: str, body: bytes) -> str:
        with self._lock:
            if checked(key) in self.objects:
                raise Conflict(f"{key} exists already")
            self.objects[key] = bytes(body)
        return _etag(body)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        with self._lock:
            if checked(key) not in self.objects or _etag(self.objects[key]) != etag:
                raise Conflict(f"{key} is no longer what was read")
            self.objects[key] = bytes(body)
        return _etag(body)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        checked_prefix(prefix)
        with self._lock:
            found = sorted((key, len(body)) for key, body in self.objects.items() if key.startswith(prefix))
        yield from found

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(checked(key), None)

    def probe(self) -> None: ...


class Wrapped:
    """Another store, call by call; what the subclasses break in one place."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    @property
    def url(self) -> str:
        return self.store.url

    def get(self, key: str) -> StoredObject:
        return self.store.get(key)

    def create(self, key: str, body: bytes) -> str:
        return self.store.create(key, body)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        return self.store.swap(key, body, etag)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def probe(self) -> None:
        self.store.probe()


class CountingStore(Wrapped):
    """Remembers what was asked, as (operation, key)."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.asked: list[tuple[str, str]] = []

    def get(self, key: str) -> StoredObject:
        self.asked.append(("get", key))
        return self.store.get(key)

    def create(self, key: str, body: bytes) -> str:
        self.asked.append(("create", key))
        return self.store.create(key, body)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        self.asked.append(("swap", key))
        return self.store.swap(key, body, etag)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self.asked.append(("list", prefix))
        return self.store.list(prefix)


class UnreachableStore(Wrapped):
    """Does not answer the next `failures` calls; with `late` it does what was asked first, and the answer is lost."""

    def __init__(self, store: ObjectStore, failures: int = 0, *, late: bool = False) -> None:
        super().__init__(store)
        self.failures = failures
        self.late = late
        self.asked = 0

    def get(self, key: str) -> StoredObject:
        return self._answer(lambda: self.store.get(key))

    def create(self, key: str, body: bytes) -> str:
        return self._answer(lambda: self.store.create(key, body))

    def swap(self, key: str, body: bytes, etag: str) -> str:
        return self._answer(lambda: self.store.swap(key, body, etag))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self._answer(lambda: iter(list(self.store.list(prefix))))

    def delete(self, key: str) -> None:
        self._answer(lambda: self.store.delete(key))

    def probe(self) -> None:
        self._answer(self.store.probe)

    def _answer(self, ask: Callable[[], Answer]) -> Answer:
        self.asked += 1
        if self.failures > 0:
            self.failures -= 1
            if self.late:
                ask()
            raise StoreUnavailable("the line is cut")
        return ask()


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
