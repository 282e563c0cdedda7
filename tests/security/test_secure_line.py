"""The whole line behind locks: SASL/SCRAM over mutual TLS to Apache Kafka, S3 over TLS, secrets in every place.

One worker goes through it as an operator runs it; other commands meet each
refusal. Everything that any of them says or stores is kept and searched.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.security.canaries import Canaries
from tests.security.forked import run_all
from tests.security.parts import SecureKafka, TlsServer, run_secure_kafka, run_tls_minio
from tests.services.ports import free_ports
from tests.services.tls import Authority, Identity
from tests.services.worker import running, wait_until

EVENTS = 60
REFUSED = {
    "bearer": "sasl.oauthbearer.config",
    "a-wrong-password": "sasl.password",
    "a-wrong-authority": "ssl.ca.location",
    "without-a-certificate": "ssl.certificate.location",
    "a-wrong-S3-key": "refuses our credentials",
    "S3-without-its-authority": "store.s3.ca_bundle",
    "S3-through-a-proxy": "does not answer",
    "S3-with-a-password-in-its-address": "does not answer",
    "S3-with-a-crooked-address": "endpoint",
}
"""What a worker does not get past, and what its last line then names."""
CHATTY = "security,broker,conf,feature"
"""What librdkafka says at its most talkative about how it connects."""


@dataclass
class Line:
    """A broker, a store, their authority, and a configuration that joins them."""

    kafka: SecureKafka
    s3: TlsServer
    authority: Authority
    stranger: Authority
    client: Identity
    canaries: Canaries
    model: Path
    folder: Path
    key_password: str
    topic: str = ""
    letters: str = ""
    bucket: str = ""
    said: dict[str, bytes] = field(default_factory=dict)
    """Everything that was said or stored, by where."""
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Exit code and output of each command."""

    @property
    def env(self) -> dict[str, str]:
        """What must not stand in a file."""
        return {
            "STREAMLEARN__KAFKA__CLIENT__SASL_USERNAME": self.kafka.user,
            "STREAMLEARN__KAFKA__CLIENT__SASL_PASSWORD": self.kafka.password,
            "STREAMLEARN__STORE__S3__ACCESS_KEY_ID": self.s3.access_key,
            "STREAMLEARN__STORE__S3__SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_SECRET_ACCESS_KEY": self.canaries.plant("AWS_SECRET_ACCESS_KEY"),
            "AWS_ACCESS_KEY_ID": "unused",
            "HTTPS_PROXY": f"http://me:{self.canaries.plant('HTTPS_PROXY', '')}@127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def configuration(self, name: str, **changes: str) -> str:
        """Write a configuration and return its path; `changes` set `section__key` as TOML, or remove it where empty."""
        sections = self._sections()
        if name in REFUSED:
            # A lineage of its own: none of them waits for another's lease.
            sections["stream"]["name"] = json.dumps(name)
        for place, value in changes.items():
            section, _, key = place.partition("__")
            if section == "kafka_client":
                key = f'"{key.replace("_", ".")}"'
            table = sections[section.replace("_", ".")]
            if value:
                table[key] = value
            else:
                del table[key]
        file = self.folder / f"{name}.toml"
        file.write_text(
            "\n".join(
                f"[{section}]\n" + "\n".join(f"{key} = {value}" for key, value in keys.items())
                for section, keys in sections.items()
            )
        )
        return str(file)

    def _sections(self) -> dict[str, dict[str, str]]:
        said = json.dumps
        return {
            "stream": {"name": '"line"'},
            "kafka": {
                "bootstrap_servers": said(self.kafka.secure),
                "topics": said([self.topic]),
                "start": '"earliest"',
                "dead_letter_topic": said(self.letters),
            },
            "kafka.client": {
                '"security.protocol"': '"SASL_SSL"',
                '"sasl.mechanism"': '"SCRAM-SHA-512"',
                '"ssl.ca.location"': said(str(self.authority.bundle)),
                '"ssl.certificate.location"': said(str(self.client.certificate)),
                '"ssl.key.location"': said(str(self.client.key)),
                '"ssl.key.password"': said(self.key_password),
            },
            "ingest.fields": {"id": '"id"'},
            "store": {"url": said(f"s3://{self.bucket}/line"), "retry_budget_s": "0"},
            "store.s3": {"endpoint_url": said(self.s3.endpoint_url), "ca_bundle": said(str(self.authority.bundle))},
            "model": {"name": said(str(self.model)), "device": '"cpu"', "dtype": '"fp32"'},
            "anchor": {"chunks": "4", "tokens": "16"},
            "learner": {"learning_rate": "1e-2", "flush_s": "0.3", "threads": "1"},
            "checkpoint": {"every_s": "1"},
            "publish": {"every": '"10steps"'},
            "lease": {"ttl_s": "6"},
            "http": {"port": "0"},
            "log": {"format": '"json"', "level": '"debug"'},
        }

    def keep(self, where: str, text: str | bytes) -> None:
        """Keep something that was said."""
        self.said[where] = text.encode() if isinstance(text, str) else text

    def produce(self) -> None:
        """Write the events, and one record that is none."""
        producer = Producer({"bootstrap.servers": self.kafka.address, "enable.idempotence": True})
        for number in range(EVENTS):
            value = json.dumps({"id": f"e{number}", "text": f"the lazy dog jumps over fox number {number}"})
            producer.produce(self.topic, value.encode(), partition=0)
        producer.produce(self.topic, b"no JSON at all", partition=0)
        assert producer.flush(60) == 0

    def read_letters(self) -> None:
        """Keep every dead letter with its headers."""
        consumer = Consumer({"bootstrap.servers": self.kafka.address, "group.id": "look"})
        consumer.assign([TopicPartition(self.letters, 0, 0)])
        try:
            wait_until(lambda: self._read_letter(consumer), "the dead letter")
        finally:
            consumer.close()

    def _read_letter(self, consumer: Consumer) -> bool:
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            return False
        self.keep("dead letter", repr((message.headers(), message.key(), message.value())))
        return True

    def read_store(self) -> None:
        """Keep every object with its key and metadata."""
        client = self.s3.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", ()):
                answer = client.get_object(Bucket=self.bucket, Key=item["Key"])
                self.keep(f"s3 {item['Key']}", answer["Body"].read())
                self.keep(f"s3 {item['Key']} metadata", repr({**answer["Metadata"], "key": item["Key"]}))


@pytest.fixture(scope="module")
def line(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The line, after a worker has run on it and every refusal was met."""
    folder = tmp_path_factory.mktemp("secure")
    canaries = Canaries()
    authority, stranger = Authority(folder / "ca"), Authority(folder / "stranger", "somebody else")
    server, key_password = authority.identity("server"), canaries.plant("ssl.key.password")
    client = authority.identity("client", "client.invalid", passphrase=key_password)
    password, secret = canaries.plant("sasl.password"), canaries.plant("secret_access_key")
    with (
        run_tls_minio(server, trust=authority.bundle, secret=secret, access=canaries.plant("access", "")) as s3,
        run_secure_kafka(authority, server, user="learner", password=password) as kafka,
    ):
        line = Line(kafka, s3, authority, stranger, client, canaries, tiny_model, folder, key_password)
        line.topic, line.letters, line.bucket = kafka.new_topic("news"), kafka.new_topic("letters"), s3.bucket()
        line.produce()
        _learn(line)
        line.answers = run_all([*_reading(line), *_slips(line), *_refusals(line)], folder)
        for name, (_, output) in line.answers.items():
            line.keep(f"output of {name}", output)
        line.read_letters()
        line.read_store()
        yield line


def _learn(line: Line) -> None:
    """Run the worker until it has learnt and published, and keep what it says meanwhile."""
    (port,) = free_ports(1)
    with running(
        Path(line.configuration("worker", http__port=str(port), kafka_client__debug=json.dumps(CHATTY))),
        port,
        env=line.env,
    ) as worker:
        wait_until(lambda: worker.get("/readyz")[0] == 200, "readiness")
        wait_until(lambda: worker.metric("streamlearn_events_total") == EVENTS + 1, "the events")
        wait_until(lambda: worker.metric("streamlearn_version") >= 1, "a version")
        for path in ("/", "/metrics", "/healthz", "/readyz", "/nowhere"):
            line.keep(path, worker.get(path)[1])
        process = Path(f"/proc/{worker.process.pid}")
        line.keep("process title", (process / "cmdline").read_bytes() + (process / "comm").read_bytes())
        assert worker.stop() == 0, worker.log[-3000:]
        line.keep("log of the worker", worker.log)
        assert "facility" in worker.log, "librdkafka was heard"


def _case(line: Line, name: str, *arguments: str, **more: Any) -> Mapping[str, Any]:
    return {"name": name, "arguments": arguments, "env": line.env, **more}


def _reading(line: Line) -> Iterator[Mapping[str, Any]]:
    """Yield what an operator does when all is well."""
    good = line.configuration("good")
    yield _case(line, "check as JSON", "check", "--json", "-c", good)
    for verb in ("versions", "ledger"):
        yield _case(line, verb, verb, "--json", "-c", good)
    yield _case(line, "show", "show", "latest", "--json", "-c", good)
    yield _case(line, "pull", "pull", "latest", str(line.folder / "pulled"), "-c", good)


def _slips(line: Line) -> Iterator[Mapping[str, Any]]:
    """Yield commands that meet what is wrong beside a secret, or with it."""
    plant, good = line.canaries.plant, line.configuration("good")
    events = line.folder / "events.jsonl"
    events.write_text('{"text": "an event"}\n')
    pem = f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{plant('ssl.key.pem', '')}\n-----END ENCRYPTED PRIVATE KEY-----\n"
    address = f"SASL_SSL://me:{plant('bootstrap_servers', '')}@no.such.host.invalid:9"
    for name, changes in {
        "address": {"kafka__bootstrap_servers": json.dumps(address)},
        "key-password": {"kafka_client__ssl_key_password": json.dumps(plant("a wrong ssl.key.password"))},
        "key-in-file": {"kafka_client__ssl_key_location": "", "kafka_client__ssl_key_pem": json.dumps(pem)},
    }.items():
        yield _case(line, f"produce with {name}", "produce", str(events), "-c", line.configuration(name, **changes))
    beside = line.configuration(
        "beside",
        kafka_client__sasl_pasword=json.dumps(plant("a mistyped password")),
        store_s3__session_token=json.dumps(plant("a token beside a bad value")),
        http__port="123456",
        learner__flush_s='"soon"',
    )
    yield _case(line, "check beside a bad value", "check", "--offline", "-c", beside)
    yield _case(
        line, "check that is refused", "check", "--json", "-c", good, env=_wrong_key(line, _wrong_password(line))
    )
    yield _case(line, "a mistake of ours", "run", "-c", good, fault=f"a mistake with {line.kafka.password} in it")


def _refusals(line: Line) -> Iterator[Mapping[str, Any]]:
    """Yield workers that do not get past a lock: those of `REFUSED`."""
    plant, env = line.canaries.plant, line.env
    bearer = {
        "kafka_client__sasl_mechanism": '"OAUTHBEARER"',
        "kafka_client__enable_sasl_oauthbearer_unsecure_jwt": '"true"',
        "kafka_client__sasl_oauthbearer_config": json.dumps(f"nonsense={plant('sasl.oauthbearer.config', '')}"),
    }
    bare = {"kafka_client__ssl_key_location": "", "kafka_client__ssl_certificate_location": ""}
    password, crooked = plant("endpoint_url", ""), plant("a crooked endpoint_url", "/ ")
    changes: dict[str, dict[str, str]] = {
        "bearer": bearer,
        "a-wrong-password": {"kafka_client__debug": '"security,broker"'},
        "a-wrong-authority": {"kafka_client__ssl_ca_location": json.dumps(str(line.stranger.bundle))},
        "without-a-certificate": bare,
        "a-wrong-S3-key": {},
        "S3-without-its-authority": {"store_s3__ca_bundle": ""},
        "S3-through-a-proxy": {},
        "S3-with-a-password-in-its-address": {
            "store_s3__endpoint_url": json.dumps(f"https://me:{password}@127.0.0.1:9")
        },
        "S3-with-a-crooked-address": {"store_s3__endpoint_url": json.dumps(f"https://me:{crooked}@no host")},
    }
    proxy = f"http://me:{plant('a proxy that is away', '')}@127.0.0.1:9"
    envs = {
        "a-wrong-password": _wrong_password(line),
        "a-wrong-S3-key": _wrong_key(line, env),
        "S3-through-a-proxy": {**env, "HTTPS_PROXY": proxy, "NO_PROXY": ""},
    }
    for name in REFUSED:
        yield _case(line, name, "run", "-c", line.configuration(name, **changes[name]), env=envs.get(name, env))
    yield _case(line, "check offline", "check", "--offline", "-c", line.configuration("bearer", **bearer))


def _wrong_password(line: Line) -> dict[str, str]:
    return {**line.env, "STREAMLEARN__KAFKA__CLIENT__SASL_PASSWORD": line.canaries.plant("a wrong sasl.password")}


def _wrong_key(line: Line, env: Mapping[str, str]) -> dict[str, str]:
    return {
        **env,
        "STREAMLEARN__STORE__S3__SECRET_ACCESS_KEY": line.canaries.plant("a wrong secret_access_key"),
        "STREAMLEARN__STORE__S3__SESSION_TOKEN": line.canaries.plant("session_token", ""),
    }


def test_a_worker_learns_behind_locks_with_its_secrets_from_the_environment(line: Line) -> None:
    """SCRAM-SHA-512, a client certificate with an encrypted key, and S3 over TLS, all by private authorities."""
    versions = json.loads(line.answers["versions"][1])
    # Where versions fall is the machine's: one is due every ten steps, and waits for the checkpoint in flight.
    assert versions[-1]["progress"][line.topic]["0"] in range(1, EVENTS + 2)
    ledger = [json.loads(each) for each in line.answers["ledger"][1].splitlines()]
    offsets = [each["offset"] for each in ledger if each["kind"] == "event"]
    assert offsets == list(range(EVENTS + 1))
    assert (line.folder / "pulled/adapter_model.safetensors").is_file()
    assert line.answers["check as JSON"][0] == 0
    assert b"NotJson" in line.said["dead letter"]


@pytest.mark.parametrize(("name", "named"), REFUSED.items())
def test_a_refusal_ends_the_worker_with_one_line_that_names_what_to_mend(line: Line, name: str, named: str) -> None:
    code, output = line.answers[name]
    assert code == 1, output
    said = [each for each in output.splitlines() if each.startswith("streamlearn: ")]
    assert len(said) == 1
    assert named in said[0]
    assert output.splitlines()[-1] == said[0]
    assert "Traceback" not in output


def test_no_secret_is_said_or_stored_anywhere(line: Line) -> None:
    """Not in a log at its most talkative, an error, a page, a manifest, a header or a process's title, in no form."""
    assert len(line.said) > 30, "much was said and stored"
    assert line.canaries.found_in(line.said) == []


def test_a_mistake_of_ours_is_told_with_its_place_and_without_the_secret(line: Line) -> None:
    """What nobody catches goes the same way out as the rest."""
    code, output = line.answers["a mistake of ours"]
    assert code == 1
    assert "a mistake with *** in it" in output
    assert "Traceback" in output


def test_a_secret_is_found_in_every_form() -> None:
    """The search itself would see a leak."""
    canaries = Canaries()
    secret = canaries.plant("here").encode()
    for form in (
        secret,
        quote(secret).encode(),
        json.dumps(secret.decode()).encode(),
        b"Basic " + base64.b64encode(b"user:" + secret),
        b"Basic " + base64.urlsafe_b64encode(b"u:" + secret),
        secret.hex().encode(),
        gzip.compress(b"line\n" + secret),
    ):
        assert canaries.found_in({"somewhere": b"before " + form if form[:1] != b"\x1f" else form}) != [], form
    assert canaries.found_in({"somewhere": b"nothing here"}) == []
