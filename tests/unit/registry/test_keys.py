"""What may be a name on a store, and that everything of ours is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.registry.keys import Keys, checked, checked_part, checked_prefix, is_key

OUTSIDE = ["../other", "..", "a/../b", "/etc", "a//b", "a/", ".hidden", "a/.b", "a\\b", "a b", "a\nb", "a\x00", "ä", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_lineage_or_alias_cannot_leave_its_place(name: str) -> None:
    """Both come from command lines and files."""
    with pytest.raises(ValueError, match="is no name for a lineage"):
        Keys(name)
    with pytest.raises(ValueError, match="is no name for an alias"):
        Keys("news").alias(name)
    with pytest.raises(ValueError, match="is no name for an object"):
        checked(name)


def test_a_part_cannot_hold_a_separator() -> None:
    with pytest.raises(ValueError, match="is no name for an alias"):
        checked_part("a/b", "an alias")


@given(st.text(max_size=30))
def test_what_is_accepted_has_only_safe_parts(name: str) -> None:
    """Whatever a key is appended to, it stays below."""
    if is_key(name):
        for part in name.split("/"):
            assert part
            assert part[0] not in ".-"
            assert ".." not in part
            assert part.isascii()
            assert not set(part) & set("\\ \n\r\t\x00")


def test_keys_of_one_lineage_are_keys_below_its_name() -> None:
    keys = Keys("news-2.en")
    made = [
        keys.head,
        keys.checkpoint("0000000001-0123456789ab", "state.json"),
        keys.ledger("0000000001-0123456789ab"),
        keys.version(1_000_000, "manifest.json"),
        keys.alias("champion"),
    ]
    assert all(is_key(key) and key.startswith("news-2.en/") for key in made)
    assert keys.version(42, "manifest.json") == "news-2.en/versions/v000042/manifest.json"


def test_an_endless_name_is_refused_in_one_short_line() -> None:
    with pytest.raises(ValueError, match="longer than 900") as refusal:
        checked("a/" * 1_000 + "b")
    assert len(str(refusal.value)) < 200
    with pytest.raises(ValueError, match="at most 200 a part"):
        checked("a" * 201)


@pytest.mark.parametrize("prefix", ["", "news", "news/", "news/versions/v0"])
def test_a_prefix_may_end_anywhere(prefix: str) -> None:
    assert checked_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "../", "news/..", "news//", ".tmp", "news/.tmp/"])
def test_a_prefix_that_no_key_begins_with_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="name"):
        checked_prefix(prefix)
