"""What only a directory can get wrong."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
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


def test_bytes_are_on_the_disk_before_they_have_their_name_and_the_name_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a head is the old one or the new one, and never an empty file."""
    store = DirectoryStore(tmp_path)
    etag = store.create("news/head.json", b"old")
    happened: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink()
        happened.append("bytes" if name.parent.name == ".tmp" else f"name in {name.name}")
        if happened[-1] == "bytes":
            assert name.read_bytes() == b"new"
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        happened.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    store.swap("news/head.json", b"new", etag)

    assert happened == ["bytes", "renamed", "name in news"]


HOLD = """
import sys, time
from pathlib import Path
from streamlearn.registry.directory import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]))
with store._written(b"half") as ready, store._locked():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_writer_holds_nobody_and_its_half_object_is_none(tmp_path: Path) -> None:
    """kill -9 in the middle of a write costs nothing."""
    store = DirectoryStore(tmp_path)
    etag = store.create("news/head.json", b"1")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        taken: list[str] = []
        waiting = threading.Thread(target=lambda: taken.append(store.swap("news/head.json", b"2", etag)), daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive(), "the lock excludes while its holder lives"
        writer.kill()

        waiting.join(60)
        assert len(taken) == 1
    assert store.get("news/head.json").body == b"2"
    assert list(store.list("")) == [("news/head.json", 1)]
    assert [path.read_bytes() for path in (tmp_path / ".tmp").iterdir()] == [b"half"], "it was cut in the middle"


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from streamlearn.ports import StoreRefused
from streamlearn.registry.directory import DirectoryStore
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = DirectoryStore(Path(sys.argv[1]))
for ask in (
    store.probe,
    lambda: store.create("news/b", b"1"),
    lambda: store.swap("news/a", b"2", sys.argv[2]),
    lambda: store.delete("news/a"),
    lambda: store.get("news/secret"),
):
    try:
        ask()
        print("it could")
    except StoreRefused as refusal:
        print(refusal)
print(store.get("news/a").body)
"""


def test_what_we_may_not_do_is_refused_with_the_reason() -> None:
    """Read-only for us, as after a restore by root; nobody waits for it to pass."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        store = DirectoryStore(root)
        etag = store.create("news/a", b"1")
        store.create("news/secret", b"1")
        Path(folder).chmod(0o755)
        (root / "news" / "secret").chmod(0)
        for path in (root, root / ".tmp", root / "news", root / ".lock"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (root / "news" / "a").chmod(0o444)
        told = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, str(root), etag], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for path in (root, root / ".tmp", root / "news"):
            path.chmod(0o755)

    assert len(told) == 6
    for line in told[:5]:
        assert re.fullmatch(r"file:///\S+: \S+: Permission denied; check that it is a directory we may write to", line)
    assert told[5] == "b'1'"


FULL = """
import subprocess, sys
from pathlib import Path
from streamlearn.ports import StoreRefused
from streamlearn.registry.directory import DirectoryStore
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(root)], check=True)
store = DirectoryStore(root)
etag = store.create("news/head.json", b"1")
def ask(what):
    try:
        what()
        print("it could")
    except StoreRefused as refusal:
        print(refusal)
ask(lambda: store.create("news/big", b"x" * 300_000))
print(list(store.list("")), list((root / ".tmp").iterdir()))
etag = store.swap("news/head.json", b"2", etag)
subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
ask(store.probe)
ask(lambda: store.swap("news/head.json", b"3", etag))
print(store.get("news/head.json").body)
"""


def test_a_full_and_a_read_only_disk_are_told_apart_and_harm_nothing(tmp_path: Path) -> None:
    """Real ones, in a name space of their own."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("this machine gives no name space of mounts (unshare --user --map-root-user --mount)")
    told = subprocess.run(
        [*unshare, sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert told[0].endswith("news/big: No space left on device; free some space")
    assert told[1] == "[('news/head.json', 1)] []"
    assert told[2].endswith("probe: Read-only file system; check that it is a directory we may write to")
    assert told[3].endswith("news/head.json: Read-only file system; check that it is a directory we may write to")
    assert told[4] == "b'2'"


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
