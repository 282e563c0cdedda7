"""Which lineage the options mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamlearn.cli.options import where
from streamlearn.config_file import ConfigError

FILE = """
[stream]
name = "news"
[kafka]
bootstrap_servers = "b:1"
topics = ["t"]
[store]
url = "data"
[model]
name = "m"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_store_and_a_lineage_need_no_file() -> None:
    store, lineage = where(None, "s3://b/p", "news", "http://127.0.0.1:9000")
    assert (store.url, store.s3.endpoint_url, lineage) == ("s3://b/p", "http://127.0.0.1:9000", "news")


def test_a_file_names_both_and_the_lineage_can_be_another(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(FILE)
    assert where(tmp_path / "x.toml", None, None, None)[1] == "news"
    assert where(tmp_path / "x.toml", None, "old", None)[1] == "old"


def test_the_file_of_this_directory_is_taken_when_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "streamlearn.toml").write_text(FILE)
    assert where(None, None, None, None)[0].url == "data"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, None, None, None), "Give -c FILE, or --store URL --lineage NAME"),
        ((None, "data", None, None), "--store needs --lineage"),
        ((Path("x.toml"), "data", "news", None), "give one of them"),
        ((None, "data", "news", "http://h:1"), "is a directory"),
        ((Path("x.toml"), None, None, "http://h:1"), "goes with --store"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_way_out(
    arguments: tuple[Path | None, str | None, str | None, str | None], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        where(*arguments)
