"""Where records go that are no events: a topic with Kafka Connect's headers, or the log.

A record is sent as it was (key, value, headers, time stamp), with the reason in
further headers. Delivery is at least once: after a crash, what was sent since
the last checkpoint is sent again. Whether a record is bad is decided elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from streamlearn.config import Config
from streamlearn.core.events import Arrival
from streamlearn.ingest.kafka_client import open_producer
from streamlearn.ingest.kafka_errors import name_of, refusal
from streamlearn.ingest.letters import Letter, headers_of
from streamlearn.ingest.limited import Limited
from streamlearn.ports import Fault, SourceRefused, SourceUnavailable, Telemetry, no_fault

_log = structlog.get_logger(__name__)

_FULL_WAIT_S = 10.0
"""How long `send` waits for room, should it be called without, before it says so; longer patience is another's."""
_POLL_S = 0.1
_LATEST_MS = 2**63 - 1
"""The latest time stamp that Kafka can hold; rounding could exceed it."""
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
_UNKNOWN = {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION}
_AGAIN = {KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}


class KafkaDeadLetters:
    """Dead letters in a topic. `send` is for one thread, `flush` for another."""

    def __init__(
        self,
        config: Config,
        telemetry: Telemetry,
        *,
        fault: Fault = no_fault,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        assert config.kafka.dead_letter_topic, "a topic is configured"
        self._topic = config.kafka.dead_letter_topic
        self._name = config.group
        self._telemetry = telemetry
        self._fault = fault
        self._monotonic = monotonic
        self._limited = Limited(every_s=30.0, monotonic=monotonic)
        self._lock = threading.Lock()
        self._sent = 0
        # Numbers not yet acknowledged, oldest first. A count would not do: a
        # later letter may be acknowledged while an earlier one still waits.
        self._open: dict[int, None] = {}
        self._again: deque[tuple[int, Letter]] = deque()
        self._refused: SourceRefused | None = None
        self._closed = False
        self._producer = open_producer(config, on_error=self._on_error, monotonic=monotonic)

    @property
    def trouble(self) -> str | None:
        """Nothing is tried again here; see `PatientDeadLetters`."""
        return None

    def room(self) -> bool:
        """Whether `send` would return at once: not while 64 MiB are unacknowledged and one more letter waits."""
        self._check()
        if self._again:
            self._producer.poll(0)
            try:
                self._send_again(self._monotonic())
            except SourceUnavailable:
                return False
        return True

    def send(self, arrival: Arrival) -> None:
        """Queue the record of a rejected arrival; waits only where there was no `room`.

        Raises:
            SourceUnavailable: no room for some seconds; the letter is not queued.
            SourceRefused: the topic cannot be written.
        """
        assert arrival.record is not None, "a rejected arrival keeps its record"
        assert arrival.rejection is not None, "only rejected arrivals are dead letters"
        letter = Letter(arrival.record, headers_of(arrival.record, arrival.rejection, connector=self._name))
        deadline = self._monotonic() + _FULL_WAIT_S
        # First, so that what is to be sent again cannot pile up between flushes.
        self._send_again(deadline)
        with self._lock:
            self._sent += 1
            number = self._sent
            self._open[number] = None
        try:
            self._produce(number, letter, deadline=None)
        except BufferError:
            # The one that finds the queue full is kept beside it, and there is no `room` until it went in.
            self._again.append((number, letter))

    def flush(self, timeout_s: float) -> None:
        """Return when every letter queued so far is acknowledged, itself; see `DeadLetters.flush`.

        Raises:
            SourceUnavailable: not within `timeout_s`; what is queued stays queued.
            SourceRefused: the topic does not exist or cannot be written.
        """
        deadline = self._monotonic() + timeout_s
        with self._lock:
            goal = self._sent
        self._producer.poll(0)
        self._fault("dead_letters:flush")
        while waiting := self._waiting(goal):
            self._check()
            if self._monotonic() >= deadline:
                raise SourceUnavailable(
                    f"{waiting} dead letters are not acknowledged by topic {self._topic!r} after {timeout_s:g} s: "
                    "are the brokers reachable?"
                )
            self._send_again(deadline)
            # Wakes at each delivery report.
            self._producer.poll(min(_POLL_S, max(deadline - self._monotonic(), 0.0)))
        self._check()

    def close(self) -> None:
        """Give up what is unacknowledged: it belongs to no checkpoint and will come again; idempotent."""
        if not self._closed:
            self._closed = True
            self._producer.purge()
            self._producer.flush(1.0)

    def _waiting(self, goal: int) -> int:
        """Return how many of the first `goal` letters are not acknowledged."""
        with self._lock:
            return sum(number <= goal for number in self._open)

    def _produce(self, number: int, letter: Letter, deadline: float | None) -> None:
        while True:
            self._check()
            try:
                self._producer.produce(
                    self._topic,
                    value=letter.value,
                    key=letter.record.key,
                    headers=list(letter.headers),
                    timestamp=min(round(letter.record.timestamp * 1000), _LATEST_MS),
                    on_delivery=lambda error, message: self._on_delivery(number, letter, error, message),
                )
            except BufferError:
                if deadline is None:
                    raise
                if self._monotonic() >= deadline:
                    raise SourceUnavailable(
                        f"dead letters for topic {self._topic!r} fill their queue, and none was acknowledged for a "
                        "while: are the brokers reachable?"
                    ) from None
                self._producer.poll(_POLL_S)
            except KafkaException as error:
                self._on_delivery(number, letter, error.args[0], None)
                return
            else:
                self._producer.poll(0)
                return

    def _on_delivery(
        self,
        number: int,
        letter: Letter,
        error: KafkaError | None,
        message: Message | None,  # noqa: ARG002
    ) -> None:
        if error is None:
            with self._lock:
                self._open.pop(number, None)
            self._telemetry.count("streamlearn_dead_letters_sent_total")
        elif self._closed:
            pass
        elif error.code() in _TOO_LARGE and letter.whole:
            self._again.append((number, letter.without_value()))
            self._warn_too_large(letter)
        elif error.code() in _UNKNOWN:
            self._refused = SourceRefused(
                f"the dead-letter topic {self._topic!r} does not exist: create it, or correct kafka.dead_letter_topic"
            )
        elif error.code() in _AGAIN:
            self._again.append((number, letter))
        else:
            self._refused = refusal(error, topic=self._topic) or SourceRefused(
                f"the brokers do not take a dead letter for topic {self._topic!r} ({name_of(error)}): {error.str()}"
            )

    def _send_again(self, deadline: float) -> None:
        for _ in range(len(self._again)):
            try:
                number, letter = self._again.popleft()
            except IndexError:
                return  # the other thread had it
            try:
                self._produce(number, letter, deadline)
            except BaseException:
                # Still open: the next flush has to find it.
                self._again.appendleft((number, letter))
                raise

    def _on_error(self, error: KafkaError) -> None:
        self._telemetry.count("streamlearn_kafka_errors_total", code=name_of(error))
        if (refused := refusal(error, topic=self._topic)) is not None:
            self._refused = self._refused or refused
        elif (held_back := self._limited.due(name_of(error))) is not None:
            _log.warning("kafka error; dead letters wait", code=name_of(error), reason=error.str(), held_back=held_back)

    def _warn_too_large(self, letter: Letter) -> None:
        if (held_back := self._limited.due("too large")) is not None:
            record = letter.record
            _log.warning(
                "a dead letter is too large for its topic; sent without its value (raise max.message.bytes)",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                bytes=len(record.value or b""),
                held_back=held_back,
            )

    def _check(self) -> None:
        if self._refused is not None:
            raise self._refused


class LoggedDeadLetters:
    """Dead letters described in the log, each kind of error at most once in ten seconds."""

    trouble: str | None = None

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limited = Limited(every_s=10.0, monotonic=monotonic)

    def room(self) -> bool:
        """There is always room."""
        return True

    def send(self, arrival: Arrival) -> None:
        """Describe the record of a rejected arrival."""
        assert arrival.rejection is not None, "only rejected arrivals are dead letters"
        if (held_back := self._limited.due(f"{arrival.rejection.stage} {arrival.rejection.error}")) is None:
            return
        _log.warning(
            "a record is no event and was passed over; kafka.dead_letter_topic would keep such records",
            topic=arrival.topic,
            partition=arrival.partition,
            offset=arrival.offset,
            stage=arrival.rejection.stage,
            error=arrival.rejection.error,
            reason=arrival.rejection.message,
            held_back=held_back,
        )

    def flush(self, timeout_s: float) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""
