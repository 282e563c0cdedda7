"""An object store in a directory: for one machine, the demo and tests.

Compare-and-swap holds among processes of one machine by an exclusive lock;
network file systems with unreliable locks are not supported. What is hidden
(`.lock`, `.tmp`) belongs to the store and is no object.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamlearn.ports import Conflict, NotFound, StoredObject, StoreRefused
from streamlearn.registry.keys import checked, checked_prefix, is_key

_LOCK = ".lock"
_TEMPORARY = ".tmp"
_ABANDONED_S = 3600.0
"""Age of an unfinished write whose process must have died; one takes seconds."""


class DirectoryStore:
    """Objects as files below `root`; an object's etag is the SHA-256 of its bytes."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        """The directory as a URL."""
        return self._root.as_uri()

    def get(self, key: str) -> StoredObject:
        """Return the object; raises NotFound."""
        path = self._path(key)
        with self._told(key):
            try:
                body = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise NotFound(f"no object {key} in {self.url}") from None
        return StoredObject(body=body, etag=_etag(body))

    def create(self, key: str, body: bytes) -> str:
        """Write a new object; raises Conflict when the key exists."""
        path = self._path(key)
        with self._told(key), self._written(body) as ready, self._locked():
            if path.exists():
                raise Conflict(f"{key} exists already")
            self._move(ready, path)
        return _etag(body)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """Replace the object that still has `etag`; raises Conflict otherwise."""
        path = self._path(key)
        with self._told(key), self._written(body) as ready, self._locked():
            if not path.is_file() or _etag(path.read_bytes()) != etag:
                raise Conflict(f"{key} is no longer what was read")
            self._move(ready, path)
        return _etag(body)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of every object whose key starts with `prefix`, sorted by key."""
        folder, _, _ = checked_prefix(prefix).rpartition("/")
        with self._told(prefix):
            found = sorted(item for item in self._below(self._root / folder) if item[0].startswith(prefix))
        yield from found

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is no error."""
        path = self._path(key)
        with self._told(key), self._locked():
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync(path.parent)

    def probe(self) -> None:
        """Prove that the directory can be written to and its lock excludes others; creates it.

        Raises:
            StoreRefused: it does not; says why.
        """
        with self._told("probe"), self._written(b"probe") as ready, self._locked():
            if not self._lock_excludes():
                raise StoreRefused(
                    f"{self.url}: locks do not exclude others here, so two writers could overwrite each other: use a "
                    "directory on a disk of this machine, or S3"
                )
            self._sweep(ready)

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    def _below(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Yield what is in and below `folder`, in any order."""
        for parent, folders, files in os.walk(folder, onerror=_unless_absent):
            folders[:] = [name for name in folders if is_key(name)]
            for name in files:
                path = Path(parent, name)
                key = path.relative_to(self._root).as_posix()
                if is_key(key):
                    try:
                        yield key, path.stat().st_size
                    except FileNotFoundError:
                        continue  # deleted while we looked

    @contextmanager
    def _written(self, body: bytes) -> Iterator[Path]:
        """Yield a file that holds `body` for good; it is removed unless it was moved.

        Before the lock is taken, so that nobody waits for another's disk.
        """
        folder = self._root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / secrets.token_hex(8)
        try:
            with path.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _move(self, ready: Path, path: Path) -> None:
        """Put the file there whole or not at all, also when the machine stops."""
        missing = [path.parent]
        while not missing[-1].exists():
            missing.append(missing[-1].parent)
        for folder in missing[-2::-1]:
            folder.mkdir(exist_ok=True)
            # A directory that its parent forgets takes the object with it.
            _sync(folder.parent)
        ready.replace(path)
        _sync(path.parent)

    def _lock_excludes(self) -> bool:
        """Whether a second taker of the lock that we hold is kept out."""
        with (self._root / _LOCK).open("wb") as second:
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _sweep(self, but: Path) -> None:
        """Remove what writers left unfinished when they were killed."""
        for path in but.parent.iterdir():
            try:
                if path != but and time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer was faster

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Say what the file system's refusal means."""
        try:
            yield
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            mend = "free some space" if full else "check that it is a directory we may write to"
            raise StoreRefused(f"{self.url}: {key}: {error.strerror or error}; {mend}") from error


def _unless_absent(error: OSError) -> None:
    """Do not take a directory that may not be read for an empty one."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
