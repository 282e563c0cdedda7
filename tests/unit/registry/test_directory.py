"""What only a directory can get wrong."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamlearn.ports import NotFound, StoreRefused
from streamlearn.registry.directory import DirectoryStore

RACE = """
import sys
from pathlib import Path
from streamlearn.ports import Conflict
from streamlearn.registry.directory import DirectoryStore
store, won = DirectoryStore(Path(sys.argv[1])), 0
for turn in range(200):
    found = store.get("count")
    try:
        store.swap("count", str(int(found.body) + 1).encode(), found.etag)
        won += 1
    except Conflict:
        pass
print(won)
"""


def test_processes_that_count_together_lose_nothing(tmp_path: Path) -> None:
    """The lock holds between processes, not only between threads."""
    DirectoryStore(tmp_path).create("count", b"0")
    running = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    won = sum(int(process.communicate(timeout=120)[0]) for process in running)

    assert int(DirectoryStore(tmp_path).get("count").body) == won
    assert won >= 200


def test_a_write_that_fails_leaves_the_old_bytes_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    etag = store.create("news/a", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreRefused, match=r"news/a: No space left on device; free some space"):
        store.swap("news/a", b"new", etag)
    with pytest.raises(StoreRefused, match="free some space"):
        store.create("news/b", b"new")
    monkeypatch.undo()

    assert store.get("news/a").body == b"old"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == [
        tmp_path / "news" / "a"
    ]


def test_every_new_directory_is_made_durable_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut, a head must not name a checkpoint whose directory the disk has forgotten."""
    synced: list[Path] = []
    monkeypatch.setattr("streamlearn.registry.directory._sync", synced.append)

    DirectoryStore(tmp_path).create("news/checkpoints/x/state.json", b"1")

    assert synced == [
        tmp_path,
        tmp_path / "news",
        tmp_path / "news" / "checkpoints",
        tmp_path / "news" / "checkpoints" / "x",
    ]


def test_what_a_killed_writer_left_is_no_object_and_is_swept_later(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.create("news/a", b"1")
    old, fresh = tmp_path / ".tmp" / "dead", tmp_path / ".tmp" / "alive"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))

    store.probe()

    assert list(store.list("")) == [("news/a", 1)]
    assert (old.exists(), fresh.exists()) == (False, True)


def test_others_may_read_what_is_published(tmp_path: Path) -> None:
    """An inference server runs as another user; the umask decides, not the way we write."""
    mask = os.umask(0o022)
    try:
        DirectoryStore(tmp_path).create("news/a", b"1")
    finally:
        os.umask(mask)

    assert (tmp_path / "news" / "a").stat().st_mode & 0o777 == 0o644


def test_a_lock_that_excludes_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems say yes to everybody."""
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)

    with pytest.raises(StoreRefused, match="locks do not exclude others here"):
        DirectoryStore(tmp_path).probe()


def test_a_directory_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)

    with pytest.raises(StoreRefused, match="Permission denied"):
        list(DirectoryStore(tmp_path).list("news/"))


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """A mistyped path is not created by looking at it."""
    store = DirectoryStore(tmp_path / "typo")

    assert list(store.list("")) == []
    with pytest.raises(NotFound):
        store.get("news/head.json")
    assert not (tmp_path / "typo").exists()


def test_a_foreign_file_is_not_listed(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.create("news/a", b"1")
    (tmp_path / "news" / "my notes.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("x")

    assert list(store.list("")) == [("news/a", 1)]
