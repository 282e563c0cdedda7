"""What librdkafka's errors mean for us: refused for good, or to be waited out.

The only place that knows its codes by meaning.
"""

from __future__ import annotations

import re

from confluent_kafka import KafkaError

from streamlearn.ports import SourceRefused, SourceUnavailable

_CREDENTIALS = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
}
_PERMISSION = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
_NAMES = {KafkaError.TOPIC_EXCEPTION}
_CONFIGURATION = {KafkaError._INVALID_ARG, KafkaError._CRIT_SYS_RESOURCE}
_CERTIFICATE = re.compile(r"SSL alert number (?:4[2-689]|116)\b")
"""TLS's alerts about *our* certificate: bad, unsupported, revoked, expired, unknown, of an unknown authority, without
permission, missing. librdkafka reports them as a lost connection."""


def refusal(error: KafkaError, *, topic: str | None = None) -> SourceRefused | None:
    """Return what to raise when waiting would not mend `error`, else None.

    Args:
        error: of a request, a message or the client.
        topic: which it is about, where that is known.
    """
    code, about = error.code(), f" {topic!r}" if topic else ""
    if code in _CREDENTIALS:
        return SourceRefused(
            f"the brokers refuse our credentials ({error.str()}): check security.protocol, sasl.mechanism, "
            "sasl.username and sasl.password under [kafka.client]"
        )
    if _CERTIFICATE.search(error.str()):
        return SourceRefused(
            f"the brokers do not take our certificate ({error.str()}): check ssl.certificate.location and "
            "ssl.key.location under [kafka.client]"
        )
    if code in _PERMISSION:
        return SourceRefused(
            f"the brokers give no permission for topic{about} ({error.str()}): allow this user to describe, read and, "
            "for dead letters, write it"
        )
    if code in _NAMES:
        return SourceRefused(f"{topic!r} is no topic name ({error.str()}): correct kafka.topics")
    if code in _CONFIGURATION or error.fatal():
        return SourceRefused(f"librdkafka gives up ({name_of(error)}): {error.str()}")
    return None


def unavailable(doing: str, error: KafkaError) -> SourceUnavailable:
    """Return the outage that `error` is, met while `doing` something."""
    return SourceUnavailable(f"no answer from the brokers while {doing} ({name_of(error)}): {error.str()}")


def name_of(error: KafkaError) -> str:
    """Return the code's name, a bounded label for metrics."""
    return str(error.name()).lstrip("_")
