"""Whatever a configuration's file or environment holds: a `Config`, or one message of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.config import Config
from streamlearn.config_file import ConfigError, load, masked, resolve
from tests.fuzz.hostile import mutations, within

VALID: dict[str, Any] = {
    "stream": {"name": "news"},
    "kafka": {
        "bootstrap_servers": "a:1",
        "topics": ["news"],
        "start": "earliest",
        "client": {"sasl.password": "hunter22"},
    },
    "store": {
        "url": "s3://models/x",
        "s3": {"endpoint_url": "http://a:1", "access_key_id": "k", "secret_access_key": "hunter22"},
    },
    "model": {"name": "tiny"},
    "ingest": {"fields": {"id": "id"}},
    "window": {"half_life": "6h"},
    "publish": {"every": "500steps"},
    "lora": {"target_modules": ["q", "v"]},
}
TOML = """
[stream]
name = "news"
[kafka]
bootstrap_servers = "a:1"
topics = ["news"]
[store]
url = "store"
[model]
name = "tiny"
"""


def told(path: Path) -> Config | None:
    """Return the configuration, or None where one message says what to mend."""
    try:
        return load(path, {})
    except ConfigError as error:
        assert str(path) in str(error)  # noqa: PT017 - either ending is right
        return None


@given(mutations(VALID))
@settings(max_examples=200, deadline=None)
def test_a_configuration_with_something_wrong_is_told_or_is_one(document: dict[str, Any]) -> None:
    """A secret that still bears its name is in neither."""
    try:
        said = json.dumps(masked(resolve(document, {})))
    except ConfigError as error:
        said = str(error)
    assert "hunter22" not in said or given_another_name(document)


def given_another_name(value: Any, name: str = "") -> bool:
    """Whether the secret stands where nobody could know it for one."""
    if isinstance(value, dict):
        return any(given_another_name(below, key) for key, below in value.items())
    if isinstance(value, list):
        return any(given_another_name(below, name) for below in value)
    return value == "hunter22" and name not in {"sasl.password", "secret_access_key"}


@given(
    st.dictionaries(
        st.sampled_from(
            ["STREAM__NAME", "KAFKA__TOPICS", "KAFKA__CLIENT", "KAFKA__CLIENT__SASL_PASSWORD", "KAFKA__START",
             "INGEST__FIELDS", "LORA__TARGET_MODULES", "MODEL", "MODEL__NAME__X", "LEARNER__FLUSH_S", "HTTP__PORT",
             "WINDOW__HALF_LIFE", "PUBLISH__EVERY", "STORE__URL", "NONE", "", "__", "STREAM__", "a\x1b[2J"]
        ),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
        | st.sampled_from(
            ["[" * 20_000, '{"a":' * 20_000, "9" * 10_000, f"[{'9' * 10_000}]", "NaN", "1e999", "\udcff"]
        ),
        max_size=4,
    )
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_an_environment_with_something_wrong_is_told_or_makes_a_configuration(env: dict[str, str]) -> None:
    try:
        resolve(VALID, {f"STREAMLEARN__{name}": value for name, value in env.items()})
    except ConfigError as error:
        assert "hunter22" not in str(error)  # noqa: PT017 - either ending is right


@given(place=st.integers(0, len(TOML)), junk=st.text(max_size=20) | st.sampled_from(["=" * 50, "[[", '"""', "\x00"]))
@settings(max_examples=150, deadline=None)
def test_a_file_with_something_in_it_is_told_or_is_a_configuration(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_bytes((TOML[:place] + junk + TOML[place:]).encode("utf-8", "surrogatepass"))
    told(path)


DEEP = 5_000
"""tomllib takes n² steps for a dotted key of n parts: an operator's own file may take its second."""
FILES: dict[str, bytes] = {
    "bytes": bytes(range(256)),
    "a list, deep": b"a = " + b"[" * DEEP + b"]" * DEEP,
    "a table in a table": b"a = " + b"{a=" * DEEP + b"1" + b"}" * DEEP,
    "a dotted key": b".".join([b"a"] * DEEP) + b" = 1",
    "a dotted table": b"[" + b".".join([b"kafka"] + [b"a"] * DEEP) + b"]\nx = 1",
    "a dotted client property": TOML.encode() + b"[kafka.client]\n" + b".".join([b"a"] * DEEP) + b" = 1",
    "a whole number of 10^5 digits": TOML.encode() + b"[learner]\nstep_chunks = " + b"9" * 100_000,
    "a number of 10^5 digits": TOML.encode() + b"[learner]\nflush_s = -0." + b"9" * 100_000,
    "a key without end": TOML.encode() + b"k" * 100_000 + b" = 1",
    "a section without end": TOML.encode() + b"[" + b"k" * 100_000 + b"]\nx = 1",
    "many unknown keys": TOML.encode() + b"[learner]\n" + b"".join(b"k%d = 1\n" % n for n in range(300)),
    "a duration without end": TOML.encode() + b'[window]\nhalf_life = "' + b"1" * 20_000 + b'x"',
    "many versions without end": TOML.encode() + b'[publish]\nevery = "' + b"1" * 20_000 + b'events "',
    "more than a file of ours": b"#" * (2 * 2**20),
    "UTF-16": TOML.encode("utf-16"),
    "a mark of byte order": b"\xef\xbb\xbf" + TOML.encode(),
}


@pytest.mark.parametrize("body", FILES.values(), ids=FILES.keys())
def test_a_hostile_file_is_told_soon(body: bytes, tmp_path: Path) -> None:
    """Depth, length and digits: one message, neither a traceback nor a wait."""
    path = tmp_path / "streamlearn.toml"
    path.write_bytes(body)

    with within(seconds=10):
        assert told(path) is None


def test_a_device_is_no_configuration() -> None:
    """A file without an end is not read to it."""
    with within(seconds=5, megabytes=10):
        assert told(Path("/dev/zero")) is None
