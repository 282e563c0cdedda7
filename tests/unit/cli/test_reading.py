"""Every reader shows what is on the store, as a table and as JSON, and exits as documented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Shell


def test_versions_are_listed_as_documented(shell: Shell) -> None:
    first, second = shell.json("versions")
    assert set(second) == {
        "version", "created_at", "parent", "epoch", "checkpoint", "aliases", "events", "tokens", "progress", "scores",
    }  # fmt: skip
    assert (first["version"], first["parent"], first["aliases"]) == ("v000001", None, [])
    assert (second["version"], second["parent"], second["aliases"]) == ("v000002", "v000001", ["latest"])
    assert second["epoch"] == 1
    assert second["events"] == 6
    assert second["progress"] == {"news": {"0": 6}}
    assert second["scores"] == {
        "live": {"nats_per_token": 3.25, "bits_per_byte": 0.8125},
        "base": {"nats_per_token": 3.5, "bits_per_byte": 0.875},
    }


def test_the_table_of_versions_shows_the_gain(shell: Shell) -> None:
    text = shell("versions")
    assert "v000002" in text
    assert "latest" in text
    assert "0.250" in text


@pytest.mark.parametrize("name", ["v000002", "2", "latest"])
def test_a_version_is_shown_by_name_number_or_alias(shell: Shell, name: str) -> None:
    assert shell.json("show", name)["version"] == "v000002"
    text = shell("show", name)
    for words in ("v000002", "0: 6", "adapter_model.safetensors", "since the parent 3"):
        assert words in text


def test_the_ledger_holds_every_offset_once(shell: Shell) -> None:
    lines = [json.loads(line) for line in shell("ledger", "--json").splitlines()]
    assert [line["offset"] for line in lines if line["kind"] == "event"] == list(range(7))


def test_the_ledger_of_a_version_is_what_its_parent_had_not_learnt(shell: Shell) -> None:
    lines = [json.loads(line) for line in shell("ledger", "--version", "latest", "--json").splitlines()]
    assert [line["offset"] for line in lines if line["kind"] == "event"] == [3, 4, 5]


def test_a_limit_cuts_the_ledger(shell: Shell) -> None:
    assert len(shell("ledger", "--json", "--limit", "2").splitlines()) == 2
    assert "news:0:0" in shell("ledger", "--limit", "1")


def test_an_event_is_found_with_the_versions_that_have_learnt_it(shell: Shell) -> None:
    """What a deletion request asks."""
    assert shell.json("ledger", "--find", "news:0:1")["versions"] == ["v000001", "v000002"]
    assert shell.json("ledger", "--find", "news:0:4")["versions"] == ["v000002"]
    assert shell.json("ledger", "--find", "news:0:6")["versions"] == []
    assert "in versions: v000002" in shell("ledger", "--find", "news:0:4")


def test_an_event_that_was_never_read_is_an_error(shell: Shell) -> None:
    assert "no event 'nope'" in shell("ledger", "--find", "nope", exits=1)


def test_a_pulled_version_is_a_plain_adapter_directory(shell: Shell, tmp_path: Path) -> None:
    said = shell.json("pull", "latest", str(tmp_path / "adapter"))
    assert said["version"] == "v000002"
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names


def test_a_damaged_version_never_appears(shell: Shell, store: Path, tmp_path: Path) -> None:
    (store / "news/versions/v000001/adapter_model.safetensors").write_bytes(b"[]")
    assert "damaged" in shell("pull", "v000001", str(tmp_path / "adapter"), exits=1)
    assert not (tmp_path / "adapter").exists()


def test_pulling_over_something_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    assert "there already" in shell("pull", "latest", str(tmp_path / "mine"), exits=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "v000009"], "no version v000009"),
        (["show", "champion"], "it has: latest"),
        (["versions", "--lineage", "other"], "there are: news"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(shell: Shell, arguments: list[str], words: str) -> None:
    if "--lineage" in arguments:
        message = shell.bare(*arguments, "--store", str(shell._store), exits=1)
    else:
        message = shell(*arguments, exits=1)
    assert words in message


def test_a_name_that_is_no_name_is_a_usage_error(shell: Shell) -> None:
    assert "'..'" in shell("show", "../../etc/passwd", exits=2)
