"""Which topic bears a name now: one that was deleted and created again has another id (KIP-516).

librdkafka goes on in a new log where our offset lies within it, without a word;
only the id tells. Asks for ids; what a change means is `assignment.py`'s. For
one thread.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection

from streamlearn.config import Config
from streamlearn.ingest.kafka_client import open_admin
from streamlearn.ingest.kafka_errors import refusal, unavailable
from streamlearn.ports import Clock, SourceUnavailable

_NONE = "AAAAAAAAAAAAAAAAAAAAAA"
"""How brokers before 2.8, which give topics no ids, say so."""
_UNSUPPORTED = {KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION}
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}

_Answers = Mapping[str, concurrent.futures.Future[Any]]


class TopicIds:
    """Asks the brokers for ids, with some seconds of patience."""

    def __init__(self, config: Config, *, timeout_s: float, clock: Clock) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._clock = clock
        self._admin: Any = None
        self._failed = False

    def now(self, topics: Iterable[str]) -> dict[str, str]:
        """Return topic -> id as of now, "" where brokers give none; a topic that does not exist is left out.

        Raises:
            SourceUnavailable: no answer within some seconds.
            SourceRefused: a topic is not ours to describe.
        """
        answers = self._request(topics)
        # The client times out by itself; the second more is for what it may owe us.
        concurrent.futures.wait(answers.values(), timeout=self._timeout_s + 1.0)
        self._failed = True
        told = self._told(answers)
        self._failed = False
        return told

    def _request(self, topics: Iterable[str]) -> _Answers:
        names = sorted(topics)
        if not names:
            return {}
        if self._admin is None:
            self._admin = open_admin(self._config, monotonic=self._clock.monotonic)
        try:
            if self._failed:
                # It would go on asking a broker that was the controller and is dead: only new metadata tell another.
                self._admin.list_topics(names[0], timeout=self._timeout_s)
            answers: _Answers = self._admin.describe_topics(TopicCollection(names), request_timeout=self._timeout_s)
        except KafkaException as error:
            raise unavailable("asking for the ids of topics", error.args[0]) from None
        return answers

    def _told(self, answers: _Answers) -> dict[str, str]:
        told: dict[str, str] = {}
        for topic, answer in answers.items():
            if not answer.done():
                raise SourceUnavailable("no answer from the brokers while asking for the ids of topics")
            try:
                found = str(answer.result().topic_id)
            except KafkaException as error:
                _raise_unless_harmless(error.args[0], topic)
                if error.args[0].code() in _UNSUPPORTED:
                    told[topic] = ""
            else:
                told[topic] = "" if found == _NONE else found
        return told


def _raise_unless_harmless(error: KafkaError, topic: str) -> None:
    if (refused := refusal(error, topic=topic)) is not None:
        raise refused from None
    if error.code() not in _UNKNOWN | _UNSUPPORTED:
        raise unavailable("asking for the ids of topics", error) from None
