"""Wires ingest from a configuration; the only module of it that names Kafka and the thread together."""

from __future__ import annotations

from streamlearn.config import Config
from streamlearn.ingest.dead_letters import KafkaDeadLetters, LoggedDeadLetters
from streamlearn.ingest.intake import Intake, open_intake
from streamlearn.ingest.kafka import KafkaRecords
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ingest.patient_letters import PatientDeadLetters
from streamlearn.ports import Chunker, Clock, DeadLetters, Fault, Telemetry, no_fault


def open_source(config: Config, chunker: Chunker, telemetry: Telemetry, clock: Clock) -> Intake:
    """Return the stream of `kafka.topics`, not yet started; speaks to no broker before that.

    Raises:
        SourceRefused: librdkafka does not take the properties of `[kafka.client]`.
    """
    lost = LostOffsets(config.kafka.on_lost_data)
    return open_intake(config, KafkaRecords(config, lost, telemetry, clock), lost, chunker, telemetry, clock)


def open_dead_letters(config: Config, telemetry: Telemetry, *, fault: Fault = no_fault) -> DeadLetters:
    """Return the dead-letter topic of `config`, or the log where there is none.

    Raises:
        SourceRefused: librdkafka does not take the properties of `[kafka.client]`.
    """
    if config.kafka.dead_letter_topic is None:
        return LoggedDeadLetters()
    letters = KafkaDeadLetters(config, telemetry, fault=fault)
    return PatientDeadLetters(letters, budget_s=config.kafka.retry_budget_s, telemetry=telemetry)
