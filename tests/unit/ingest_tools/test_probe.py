"""What the brokers say of a configuration's topics."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamlearn.config import Kafka
from streamlearn.ingest.probe import Contact, bad_property, look
from streamlearn.ingest.produce import Outgoing, open_writer
from streamlearn.ports import SourceRefused, SourceUnavailable


def filled(address: str, topic: str, partition: int, count: int) -> None:
    writer = open_writer(Contact(address), topic, partition=partition)
    for line in range(count):
        writer.send(Outgoing(line=line, value=b"x"))
    writer.flush()


def test_topics_are_found_with_partitions_and_watermarks(broker: str) -> None:
    prefix = uuid.uuid4().hex[:8]
    filled(broker, f"{prefix}-news", 1, 7)
    filled(broker, f"{prefix}-blog", 0, 3)
    kafka = Kafka(bootstrap_servers=broker, topics=(f"{prefix}-news", f"^{prefix}-", "nope"))

    found = look(kafka)

    assert found.brokers == (broker,)
    (news,) = found.wanted[f"{prefix}-news"]
    assert news.partitions == {0: (0, 0), 1: (0, 7), 2: (0, 0), 3: (0, 0)}
    assert news.records == 7
    assert [(topic.name, topic.records) for topic in found.wanted[f"^{prefix}-"]] == [
        (f"{prefix}-blog", 3),
        (f"{prefix}-news", 7),
    ]
    assert found.wanted["nope"] == ()
    assert found.auto_create is None


def test_looking_creates_no_topic(broker: str) -> None:
    """A check that made what it misses would always be content."""
    name = uuid.uuid4().hex
    kafka = Kafka(bootstrap_servers=broker, topics=(name,), dead_letter_topic=f"{name}-dlq")
    for _ in range(2):
        found = look(kafka)
        assert found.wanted[name] == ()
        assert not found.dead_letters
        assert name not in found.topics


def test_a_dead_letter_topic_that_is_there_is_seen(broker: str) -> None:
    name = uuid.uuid4().hex
    filled(broker, name, 0, 1)
    assert look(Kafka(bootstrap_servers=broker, topics=("x",), dead_letter_topic=name)).dead_letters


def test_brokers_out_of_reach_say_why_and_what_to_mend() -> None:
    with pytest.raises(SourceUnavailable, match=r"Connection refused.*mend kafka\.bootstrap_servers"):
        look(Kafka(bootstrap_servers="127.0.0.1:1", topics=("t",)), timeout_s=0.6)


def test_a_property_that_is_none_is_the_users_to_mend() -> None:
    kafka = Kafka(bootstrap_servers="b:1", topics=("t",), client={"security.protocol": "nope"})
    with pytest.raises(ValueError, match=r"\[kafka.client\]: Invalid value .* mend or remove"):
        look(kafka)


def test_a_secret_that_librdkafka_quotes_is_masked() -> None:
    kafka = Kafka(bootstrap_servers="b:1", topics=("t",), client={"sasl.oauthbearer.client.secret": "hunter22"})
    contact = Contact("b:1", client=kafka.client)
    refused = KafkaException(KafkaError(KafkaError._INVALID_ARG, 'Invalid value "hunter22" for …'))
    assert (
        str(bad_property(contact, refused)) == '[kafka.client]: Invalid value "***" for …; mend or remove the property'
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError._AUTHENTICATION, r"refuse our credentials.*sasl\.password"),
        (KafkaError._SSL, r"no TLS with b:1.*ssl\.\*"),
    ],
)
def test_a_refusal_is_not_waited_out(code: int, words: str) -> None:
    contact = Contact("b:1")
    contact.heard.append(KafkaError(code, "b:1/bootstrap: because (after 3ms in state AUTH_REQ)"))
    with pytest.raises(SourceRefused, match=words) as caught:
        contact.check()
    assert "because" in str(caught.value)


def test_librdkafkas_own_log_stays_off_the_terminal(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It says hundreds of times what the error says once."""
    with pytest.raises(SourceUnavailable):
        look(Kafka(bootstrap_servers="127.0.0.1:1", topics=("t",)), timeout_s=0.5)
    assert capfd.readouterr().err == ""
    assert caplog.records == []
