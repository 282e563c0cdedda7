"""A configuration is either right as a whole or refused in words that mend it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.config import Config
from streamlearn.config_errors import variable_of
from streamlearn.config_file import ConfigError, digest, load, masked, resolve, secrets_of

MINIMAL: dict[str, Any] = {
    "stream": {"name": "news"},
    "kafka": {"bootstrap_servers": "127.0.0.1:9092", "topics": ["news"], "start": "earliest"},
    "store": {"url": "s3://models/streamlearn", "s3": {"endpoint_url": "http://127.0.0.1:9000"}},
    "model": {"name": "smollm2-135m"},
}
ISSUE_FILE = """
[stream]
name = "news"                                # the lineage
[kafka]
bootstrap_servers = "127.0.0.1:9092"
topics = ["news"]
start = "earliest"
[store]
url = "s3://models/streamlearn"
[store.s3]
endpoint_url = "http://127.0.0.1:9000"
[model]
name = "smollm2-135m"
"""


def with_keys(**sections: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(MINIMAL))
    for section, keys in sections.items():
        document.setdefault(section, {}).update(keys)
    return document


def refusal(document: dict[str, Any], **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(document, env)
    return str(caught.value)


def test_the_file_of_the_readme_works_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "streamlearn.toml").write_text(ISSUE_FILE)

    config = load(tmp_path / "streamlearn.toml", {})

    assert config.stream.name == "news"
    assert config.group == "streamlearn-news"


# --- the file ------------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_way_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml: No such file.*-c FILE"):
        load(tmp_path / "gone.toml", {})


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[stream]\nname = news\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML: .*line 2"):
        load(tmp_path / "bad.toml", {})


def test_a_file_that_is_not_utf_8_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[stream]\nname = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="byte 20 is not UTF-8"):
        load(tmp_path / "latin.toml", {})


# --- what is wrong with it ------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [
        ("kafka", "topic", "kafka.topics"),
        ("kafka", "bootstrap.servers", "kafka.bootstrap_servers"),
        ("learner", "half_life", "window.half_life"),
        ("store", "uri", "store.url"),
    ],
)
def test_an_unknown_key_is_an_error_that_suggests_the_nearest(section: str, key: str, meant: str) -> None:
    """A misspelt key would otherwise silently leave its default in force."""
    message = refusal(with_keys(**{section: {key: "x"}}))
    assert f'{section}.{key} = "x": unknown key' in message
    assert f"did you mean {meant}?" in message


def test_an_unknown_section_lists_the_sections() -> None:
    message = refusal(with_keys(zebra={"a": 1}))
    assert "zebra = a table: unknown key" in message
    assert "stream, kafka, store" in message


def test_a_missing_key_says_where_to_put_it_and_how_to_set_it_outside() -> None:
    document = with_keys()
    del document["kafka"]["topics"]
    message = refusal(document)
    assert "kafka.topics is missing" in message
    assert "below [kafka]" in message
    assert "STREAMLEARN__KAFKA__TOPICS" in message


def test_an_empty_file_names_every_section_that_is_needed() -> None:
    lines = refusal({}).splitlines()
    assert [line.split()[0] for line in lines] == ["[stream]", "[kafka]", "[store]", "[model]"]


def test_a_value_out_of_bounds_names_key_value_reason_and_default() -> None:
    message = refusal(with_keys(learner={"learning_rate": -1}))
    assert message.startswith("learner.learning_rate = -1: must be greater than 0 (Constant, as a stream has no end")
    assert message.endswith("left out, it is 0.001")


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("kafka", "bootstrap_servers", "", '"": must not be empty (`host:port`'),
        ("kafka", "bootstrap_servers", " ", '" ": must not be empty'),
        ("kafka", "group", "", '"": must not be empty (Consumer group'),
        ("kafka", "topics", [""], "'' can be no topic's name"),
        ("kafka", "topics", ["a b/"], "'a b/' can be no topic's name"),
        ("kafka", "topics", ["ok", ".."], "'..' can be no topic's name"),
        ("kafka", "topics", "a,b", "'a,b' can be no topic's name"),
        ("kafka", "topics", ["t" * 250], "1-249 letters"),
        ("kafka", "topics", ["^("], "is no regular expression"),
        ("kafka", "dead_letter_topic", "bad news", "'bad news' can be no topic's name"),
        ("kafka", "start", 5, "write an end of the log ('earliest', 'latest') or an ISO time"),
        ("kafka", "start", 1.7e9, "milliseconds since 1970"),
        ("kafka", "start", "20261101", "milliseconds since 1970"),
        ("model", "name", "", '"": must not be empty (Hub id'),
        ("model", "cache_dir", "", "must not be empty"),
        ("model", "device", "gpu", "\"gpu\": must be 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ("model", "device", "cuda:", "must be 'auto'"),
        ("lora", "target_modules", [], "names no layer"),
        ("lora", "target_modules", ["q_proj", ""], "names no layer"),
        ("learner", "learning_rate", INFINITE, "must be a finite number"),
        ("learner", "clip_norm", float("nan"), "must be a finite number"),
        ("lease", "ttl_s", INFINITE, "must be a finite number (Seconds without renewal"),
        ("http", "host", "", "must not be empty (Address to bind"),
        ("store", "url", "", "is empty, and nothing can stand in for it: write s3://bucket/prefix"),
        ("store", "url", "ftp://x", "write s3://bucket/prefix, file:///directory or a path"),
        ("store", "url", "s3:///x", "names no bucket"),
        ("store", "url", "s3://b/../c", "a part that is empty, '.' or '..'"),
        ("store", "url", "file://srv", "with three slashes"),
    ],
)
def test_what_can_never_run_is_refused_before_anything_is_tried(section: str, key: str, value: Any, said: str) -> None:
    """Else `check --offline` passes what fails, or learns from the wrong place, an hour into the deployment."""
    message = refusal(with_keys(**{section: {key: value}}))
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{section}.{key} ")
    assert said in message


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("kafka", "topics", ["A.b_c-9", "^a b/(c|d)$"]),
        ("kafka", "start", "2026-11-01T00:00:00Z"),
        ("kafka", "start", datetime(2026, 11, 1, tzinfo=UTC)),
        ("kafka", "start", "latest"),
        ("model", "device", "cuda:1"),
        ("model", "device", "cuda"),
        ("lora", "target_modules", "all-linear"),
        ("mix", "reservoir_tokens", 1),
        ("learner", "weight_decay", 0.1),
        ("store", "url", "S3://models/x"),
    ],
)
def test_what_can_run_is_taken(section: str, key: str, value: Any) -> None:
    document = with_keys()
    document.setdefault(section, {})[key] = value
    resolve(document, {})


@pytest.mark.parametrize("url", ["data", "./data#2", "~/data", "file:///data"])
def test_a_directory_is_a_store(url: str) -> None:
    document = with_keys()
    document["store"] = {"url": url}
    assert resolve(document, {}).store.url == url


def test_a_store_without_a_place_comes_with_all_other_faults() -> None:
    lines = refusal(with_keys(store={"url": "ftp://x"}, lease={"ttl_s": INFINITE}, kafka={"start": 5})).splitlines()
    assert [line.split()[0] for line in lines] == ["kafka.start", "store.url", "lease.ttl_s"]


def test_credentials_in_a_store_s_url_are_not_repeated() -> None:
    message = refusal(with_keys(store={"url": "s3://key:hush-hush@models/x?y"}))
    assert "move them to store.s3.access_key_id" in message
    assert "hush" not in message


def test_a_choice_with_branches_is_one_line() -> None:
    message = refusal(with_keys(kafka={"start": "earlyest"}))
    assert len(message.splitlines()) == 1
    assert message.startswith("kafka.start = \"earlyest\": must be 'earliest' or 'latest'")


def test_a_value_in_place_of_a_section_says_so() -> None:
    document = with_keys()
    document["window"] = 3
    assert refusal(document).startswith("window = 3: a section is needed; write [window]")


def test_all_faults_come_at_once_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(ISSUE_FILE + "[learner]\nlearning_rate = 0\noptimiser = 'sgd'\n[lora]\nrank = 7\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "s.toml", {})
    heading, *lines = str(caught.value).splitlines()
    assert heading.endswith("s.toml cannot be used:")
    assert len(lines) == 3
    assert any("did you mean learner.optimizer?" in line for line in lines)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"mix": {"window": 0.6, "reservoir": 0.4}}, ["mix.window", "mix.reservoir", "lower one"]),
        ({"kafka": {"dead_letter_topic": "news"}}, ["kafka.dead_letter_topic", "kafka.topics", "for ever"]),
        ({"kafka": {"topics": ["^n.*"], "dead_letter_topic": "news-dlq"}}, ["kafka.dead_letter_topic", "narrower"]),
        ({"ingest": {"min_chars": 9, "max_chars": 8}}, ["ingest.min_chars = 9", "ingest.max_chars = 8", "lower"]),
        ({"store": {"s3": {"access_key_id": "AKIA1"}}}, ["store.s3.secret_access_key", "give both, or neither"]),
        ({"store": {"url": "file:///data"}}, ["[store.s3]", "file:///data", "s3://bucket/prefix"]),
        ({"anchor": {"file": "a.jsonl"}, "mix": {"anchor": 0.0}}, ["anchor.file", "mix.anchor", "never"]),
        ({"kafka": {"client": {"group.id": "g"}}}, ["kafka.client", "group.id", "kafka.group"]),
        (
            {"learner": {"weight_decay": 0.1, "optimizer": "sgd"}},
            ["learner.weight_decay = 0.1", "learner.optimizer = 'sgd'", "no effect", "'adamw', or leave"],
        ),
        ({"learner": {"weight_decay": 0.1, "optimizer": "adam"}}, ["learner.optimizer = 'adam'"]),
        (
            {"ingest": {"format": "text", "fields": {"source": "topic"}}},
            ["[ingest.fields]", "ingest.format = 'text'", "no field would be looked for", "leave [ingest.fields] out"],
        ),
        (
            {"mix": {"window_visits": 0}},
            ["mix.window_visits = 0", "mix.window = 0.15", "no effect", "set mix.window = 0 as well"],
        ),
        ({"mix": {"window_visits": 0, "window": 0.3}}, ["mix.window = 0.3", "set mix.window = 0 as well"]),
        ({"mix": {"window_visits": 0, "reservoir_tokens": 0}}, ["set mix.window = 0", "set mix.reservoir = 0"]),
        (
            {"mix": {"reservoir_tokens": 0}},
            ["mix.reservoir_tokens = 0", "mix.reservoir = 0.1", "no effect", "set mix.reservoir = 0 as well"],
        ),
    ],
)
def test_contradictory_keys_are_named_together_with_the_way_out(
    sections: dict[str, dict[str, Any]], named: list[str]
) -> None:
    message = refusal(with_keys(**sections))
    assert len(message.splitlines()) == 1
    for words in named:
        assert words in message


@pytest.mark.parametrize(
    "sections",
    [
        {"learner": {"weight_decay": 0.0, "optimizer": "sgd"}},
        {"ingest": {"format": "text"}},
        {"ingest": {"format": "text", "fields": {"text": "text"}}},
        {"mix": {"window_visits": 0, "window": 0}},
        {"mix": {"reservoir_tokens": 0, "reservoir": 0.0}},
    ],
)
def test_keys_that_agree_are_taken(sections: dict[str, dict[str, Any]]) -> None:
    """The way out that a refusal names must lead out."""
    resolve(with_keys(**sections), {})


# --- the environment -------------------------------------------------------------------


def test_a_variable_wins_over_the_file() -> None:
    config = resolve(MINIMAL, {"STREAMLEARN__KAFKA__BOOTSTRAP_SERVERS": "broker:1", "STREAMLEARN__STREAM__SEED": "7"})
    assert config.kafka.bootstrap_servers == "broker:1"
    assert config.stream.seed == 7


def test_the_environment_alone_is_a_configuration() -> None:
    config = resolve(
        {},
        {
            "STREAMLEARN__STREAM__NAME": "news",
            "STREAMLEARN__KAFKA__BOOTSTRAP_SERVERS": "b:1",
            "STREAMLEARN__KAFKA__TOPICS": "a, b",
            "STREAMLEARN__STORE__URL": "file:///data",
            "STREAMLEARN__MODEL__NAME": "m",
        },
    )
    assert config.kafka.topics == ("a", "b")


def test_an_empty_variable_sets_nothing() -> None:
    """Compose files pass `${X:-}` on; that must not wipe a key."""
    assert resolve(MINIMAL, {"STREAMLEARN__KAFKA__TOPICS": ""}).kafka.topics == ("news",)


@pytest.mark.parametrize(
    ("text", "modules"),
    [("all-linear", "all-linear"), ("q_proj", ("q_proj",)), ("q,k", ("q", "k")), ('["q", "k"]', ("q", "k"))],
)
def test_a_list_may_be_json_or_comma_separated(text: str, modules: object) -> None:
    assert resolve(MINIMAL, {"STREAMLEARN__LORA__TARGET_MODULES": text}).lora.target_modules == modules


def test_client_properties_are_written_with_underscores() -> None:
    config = resolve(
        with_keys(kafka={"client": {"sasl.mechanism": "PLAIN"}}),
        {"STREAMLEARN__KAFKA__CLIENT__SASL_PASSWORD": "pw", "STREAMLEARN__KAFKA__CLIENT__FETCH_MIN_BYTES": "10"},
    )
    assert config.kafka.client == {"sasl.mechanism": "PLAIN", "sasl.password": "pw", "fetch.min.bytes": "10"}


def test_all_client_properties_may_come_as_json() -> None:
    config = resolve(MINIMAL, {"STREAMLEARN__KAFKA__CLIENT": '{"sasl.mechanism": "PLAIN", "fetch.min.bytes": 10}'})
    assert config.kafka.client == {"sasl.mechanism": "PLAIN", "fetch.min.bytes": 10}


def test_dotted_client_properties_need_no_quotes_in_the_file(tmp_path: Path) -> None:
    """TOML reads `sasl.mechanism = …` as a table in a table; users write it all the same."""
    (tmp_path / "s.toml").write_text(ISSUE_FILE + '[kafka.client]\nsasl.mechanism = "PLAIN"\n"fetch.min.bytes" = 1\n')
    assert load(tmp_path / "s.toml", {}).kafka.client == {"sasl.mechanism": "PLAIN", "fetch.min.bytes": 1}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("STREAMLEARN__KAFKA__TOPIC", "a", "did you mean STREAMLEARN__KAFKA__TOPICS?"),
        ("STREAMLEARN__ZZZ", "a", "docs/configuration.md"),
        ("STREAMLEARN__KAFKA", "{}", "names a section"),
        ("STREAMLEARN__STREAM__SEED__X", "1", "use STREAMLEARN__STREAM__SEED"),
        ("STREAMLEARN__KAFKA__TOPICS", '["a"', "not JSON"),
        ("STREAMLEARN__KAFKA__START", "1700000000", "write an end of the log"),
        ("STREAMLEARN__LEASE__TTL_S", "inf", "must be a finite number"),
        ("STREAMLEARN__CHECKPOINT__EVERY_S", "soon", "(from STREAMLEARN__CHECKPOINT__EVERY_S)"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, value: str, words: str) -> None:
    message = refusal(MINIMAL, **{variable: value})
    assert variable in message
    assert words in message


def test_other_variables_of_ours_are_left_alone() -> None:
    resolve(MINIMAL, {"STREAMLEARN_TEST_KAFKA": "x", "PATH": "/bin"})


@given(
    rate=st.floats(min_value=1e-9, max_value=1e3),
    seed=st.integers(0, 2**63 - 1),
    topics=st.lists(st.from_regex(r"[a-z0-9_-][a-z0-9._-]{0,19}", fullmatch=True), min_size=1, max_size=5),
    client=st.dictionaries(st.sampled_from(["sasl.username", "fetch.min.bytes", "ssl.ca.location"]), st.text("ab1")),
)
def test_file_and_environment_say_the_same(rate: float, seed: int, topics: list[str], client: dict[str, str]) -> None:
    """Every key can be moved from one to the other without a change of meaning."""
    client = {key: value for key, value in client.items() if value}
    by_file = resolve(
        with_keys(stream={"seed": seed}, learner={"learning_rate": rate}, kafka={"topics": topics, "client": client}),
        {},
    )
    by_env = resolve(
        MINIMAL,
        {
            "STREAMLEARN__STREAM__SEED": str(seed),
            "STREAMLEARN__LEARNER__LEARNING_RATE": repr(rate),
            "STREAMLEARN__KAFKA__TOPICS": json.dumps(topics),
            **{f"STREAMLEARN__KAFKA__CLIENT__{key.upper().replace('.', '_')}": value for key, value in client.items()},
        },
    )
    assert by_file == by_env


# --- secrets ----------------------------------------------------------------------------

SECRET = "hunter-22-öß"
SECRETIVE = with_keys(
    kafka={"client": {"sasl.username": "me", "sasl.password": SECRET, "ssl.key.location": "/etc/key.pem"}},
    store={
        "s3": {"access_key_id": "AKIA-one", "secret_access_key": SECRET + "2", "endpoint_url": "http://u:pass9@h:1"}
    },
)


def test_secrets_are_masked_and_the_rest_is_shown() -> None:
    shown = masked(resolve(SECRETIVE, {}))
    text = json.dumps(shown, ensure_ascii=False)
    assert SECRET not in text
    assert "pass9" not in text
    assert "AKIA" not in text
    assert shown["kafka"]["client"] == {
        "sasl.username": "me",
        "sasl.password": "***",
        "ssl.key.location": "/etc/key.pem",
    }
    assert shown["store"]["s3"]["endpoint_url"] == "http://***@h:1"
    assert shown["store"]["s3"]["session_token"] is None
    assert shown["learner"]["learning_rate"] == 0.001


def test_every_secret_is_known_to_whoever_must_keep_it() -> None:
    assert secrets_of(resolve(SECRETIVE, {})) == {SECRET, SECRET + "2", "AKIA-one", "u:pass9", "pass9"}


def test_no_error_repeats_a_secret() -> None:
    document = with_keys(
        kafka={"client": {"sasl.password": SECRET, "group.id": SECRET}},
        store={"s3": {"secret_access_key": SECRET, "secret_acces_key": SECRET, "access_key_id": [SECRET]}},
    )
    assert SECRET not in refusal(document, STREAMLEARN__KAFKA__CLIENT__SSL_KEY_PASSWORD=SECRET)


@given(st.sampled_from(["sasl.password", "ssl.key.password", "my.secret", "oauth.token.x"]), st.text(min_size=1))
def test_no_secret_property_survives_masking(key: str, value: str) -> None:
    config = resolve(with_keys(kafka={"client": {key: value}}), {})
    assert masked(config)["kafka"]["client"][key] == "***"
    assert value in secrets_of(config)


def test_the_digest_knows_no_secret_and_no_address() -> None:
    """Moving a worker to another broker or rotating a key is no change of what is learnt."""
    moved = with_keys(
        kafka={"bootstrap_servers": "other:1", "client": {"sasl.password": "new"}},
        store={"url": "s3://other", "s3": {"secret_access_key": "a", "access_key_id": "b"}},
        http={"port": 1},
    )
    assert digest(resolve(moved, {})) == digest(resolve(MINIMAL, {}))


@pytest.mark.parametrize(
    "sections",
    [
        {"learner": {"learning_rate": 0.1}},
        {"stream": {"seed": 1}},
        {"kafka": {"client": {"isolation.level": "read_uncommitted"}}},
        {"model": {"name": "other"}},
    ],
)
def test_the_digest_tells_what_is_learnt_differently(sections: dict[str, dict[str, Any]]) -> None:
    assert digest(resolve(with_keys(**sections), {})) != digest(resolve(MINIMAL, {}))


# --- the whole ---------------------------------------------------------------------------


def test_every_key_can_be_set_by_a_variable() -> None:
    """The convention has no exception: each key's own default passes through its variable."""

    def walk(section: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
        found: dict[tuple[str, ...], Any] = {}
        for name in type(section).model_fields:
            value = getattr(section, name)
            nested = hasattr(type(value), "model_fields")
            found |= walk(value, (*prefix, name)) if nested else {(*prefix, name): value}
        return found

    config = resolve(with_keys(anchor={"file": "x"}), {})
    env = {
        variable_of(key): json.dumps(value) if isinstance(value, tuple | dict) else str(value)
        for key, value in walk(config).items()
        if value is not None
    }
    assert resolve({}, env) == config


def test_reading_a_configuration_imports_no_torch() -> None:
    code = "import sys, streamlearn.config_file; assert not {'torch', 'confluent_kafka', 'boto3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_are_valid_themselves() -> None:
    Config.model_validate(resolve(MINIMAL, {}).model_dump())
