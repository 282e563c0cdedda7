"""Secrets in a configuration: wherever one can be, in whatever shape, it is not shown."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from streamlearn.cli.app import main as streamlearn
from streamlearn.cli.probes import probe_all
from streamlearn.config import Config
from streamlearn.config_file import ConfigError, masked, resolve, secrets_of
from streamlearn.config_secrets import mask_text
from streamlearn.telemetry import logs
from tests.security.canaries import Canaries

PEM = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


def secretive(canaries: Canaries) -> dict[str, Any]:
    """Return a configuration that loads, with a secret in every place that can hold one."""
    plant = canaries.plant
    return {
        "stream": {"name": "news"},
        "kafka": {
            "bootstrap_servers": f"SASL_SSL://me:{plant('bootstrap')}h:1,me:{plant('second bootstrap', '')}@g:2",
            "topics": ["news"],
            "client": {
                "sasl.username": "me",
                "sasl.password": plant("sasl.password"),
                "ssl.key.password": plant("ssl.key.password"),
                "ssl.keystore.password": plant("ssl.keystore.password"),
                "ssl.key.pem": PEM.format(plant("ssl.key.pem", "")),
                "sasl.oauthbearer.config": f"principal=me scope={plant('sasl.oauthbearer.config', '')}",
                "sasl.oauthbearer.extensions": f"a={plant('extensions', '')}",
                "sasl.oauthbearer.client.secret": plant("client.secret"),
                "sasl.oauthbearer.token.endpoint.url": f"https://me:{plant('token endpoint', '')}@h/t",
                "sasl.oauthbearer.assertion.private.key.passphrase": plant("assertion passphrase"),
                "sasl.oauthbearer.assertion.private.key.pem": plant("assertion key"),
                "sasl.pasword": plant("a mistyped name"),
            },
        },
        "store": {
            "url": "s3://bucket/line",
            "s3": {
                "endpoint_url": f"https://me:{plant('endpoint', '/ ')}@h",
                "access_key_id": plant("access_key_id"),
                "secret_access_key": plant("secret_access_key"),
                "session_token": plant("session_token"),
            },
        },
        "model": {"name": "tiny"},
    }


def config(canaries: Canaries) -> Config:
    return resolve(secretive(canaries), {})


def found(canaries: Canaries, text: str) -> list[str]:
    return canaries.found_in({"text": text.encode()})


def test_a_masked_configuration_shows_no_secret(canaries: Canaries) -> None:
    assert found(canaries, json.dumps(masked(config(canaries)))) == []


def test_the_repr_of_a_configuration_shows_no_secret(canaries: Canaries) -> None:
    """It is what a debugger, a traceback with locals or a careless log line shows."""
    resolved = config(canaries)
    for shown in (repr(resolved), str(resolved), repr(resolved.kafka), repr(resolved.store.s3), f"{resolved!r:.9999}"):
        assert found(canaries, shown) == []


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_log_line_shows_a_secret_whatever_it_is_part_of(
    canaries: Canaries, style: logs.Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain, quoted, in an address, in base64, in an exception's text, as a library's argument."""
    resolved = config(canaries)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    logs.configure("debug", style, secrets_of(resolved))
    log, library = structlog.get_logger("streamlearn"), logging.getLogger("some.library")
    for secret in sorted(secrets_of(resolved)):
        log.info(f"it is {secret}", value=secret, quoted=repr(secret), listed=[{secret: secret}])
        log.info("encoded", basic="Basic " + base64.b64encode(f"me:{secret}".encode()).decode())
        library.warning("request %s", {"headers": {"Authorization": secret}})
        try:
            raise RuntimeError(f"refused {secret!r}")
        except RuntimeError:
            log.exception("it failed")
    assert len(out.getvalue()) > 5_000
    assert found(canaries, out.getvalue()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kafka": {"client": "sasl.username=me;sasl.password={}"}},
        {"kafka": {"client": {"sasl.password": ["{}"]}}},
        {"kafka": {"client": {"ssl.key.pem": ["{}"]}}},
        {"kafka": {"clients": {"sasl.password": "{}"}}},
        {"kafka": {"sasl.password": "{}"}},
        {"store": {"s3": "access_key_id={}"}},
        {"store": {"s3": {"access_key_id": ["{}"]}}},
        {"store": {"s3": {"secret_acess_key": "{}"}}},
        {"store": {"s3": {"session_token": {"a": "{}"}}}},
        {"store": {"url": "s3://me:{}@bucket/line"}},
        {"store": {"url": "https://me:{}@bucket/line"}},
        {"store": {"url": "s3://bucket/line?X-Amz-Security-Token={}"}},
        {"kafka": {"bootstrap_servers": ["me:{}@h:1"]}},
        {"http": {"host": ["me:{}@h:1"]}},
    ],
    ids=str,
)
def test_no_refusal_of_a_configuration_shows_a_secret(canaries: Canaries, wrong: dict[str, Any]) -> None:
    """Each is a slip that somebody makes, and its message goes to a terminal or a build's log."""
    secret = canaries.plant("here", "")
    document = secretive(canaries)
    for section, value in json.loads(json.dumps(wrong).replace("{}", secret)).items():
        document[section] = {**document.get(section, {}), **value}
    with pytest.raises(ConfigError) as refused:
        resolve(document, {})
    assert found(canaries, str(refused.value)) == []


def test_a_file_that_is_no_toml_is_refused_without_showing_it(
    canaries: Canaries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, line in enumerate(("password = {}", 'password = "{}', "[{}", '"{}" "{}"', "a = 1\na.{} = 2\n{} = {}")):
        file = tmp_path / f"{number}.toml"
        file.write_text(f"[kafka.client]\n{line.replace('{}', canaries.plant(line, ''))}\n")
        with pytest.raises(SystemExit) as ending:
            streamlearn(["check", "--offline", "-c", str(file)])
        assert ending.value.code == 2
    said = capsys.readouterr()
    assert found(canaries, said.out + said.err) == []


def test_a_probe_that_quotes_a_secret_is_masked(canaries: Canaries) -> None:
    """A library may say anything; `check` prints it."""
    resolved = config(canaries)

    def quote(config: Config) -> Any:
        raise KeyError(*secrets_of(config))

    rows = probe_all(resolved, kafka=quote, store=quote, model=quote, say=lambda _: None)

    assert [row.ok for row in rows] == [False, False, False]
    assert found(canaries, json.dumps([row.document() for row in rows])) == []


def test_what_is_no_secret_stays_readable() -> None:
    """Masking that hides everything would be switched off."""
    for text in (
        "broker-1:9092,broker-2:9092",
        "SASL_SSL://broker:9092",
        "s3://bucket/a@b",
        "file:///data/a@b",
        "mail me@example.com",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "2026-11-01T00:00:00Z",
        "/etc/ssl/private.pem",
    ):
        assert mask_text(text) == text
