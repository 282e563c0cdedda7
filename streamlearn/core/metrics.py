"""The catalogue of metrics: every number that `/metrics` may show, each stated once.

Pure data. `docs/metrics.md` is generated from it, the Prometheus adapter is
built from it, and a test holds the rest of the code to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from streamlearn.core.batches import Role
from streamlearn.core.events import Outcome
from streamlearn.core.judgement import Decision
from streamlearn.core.junk import Junk


class Kind(StrEnum):
    """How a metric's numbers behave over time."""

    COUNTER = "counter"
    """Only rises, and begins at 0 with the process: read it through `rate()` or `increase()`."""
    GAUGE = "gauge"
    """The value now; absent until it is known."""
    HISTOGRAM = "histogram"
    """Observations, counted in `buckets`."""
    INFO = "info"
    """Always 1; what it says is in its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    help: str
    """A sentence or two for whoever reads a dashboard."""
    unit: str = ""
    """Base unit; empty for plain counts and infos."""
    labels: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    """All values of the only label, where they are known: shown as 0 from the start, or `rate()` would miss the
    first of each."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, without infinity."""


def _counter(name: str, text: str, unit: str = "", labels: tuple[str, ...] = (), known: tuple[str, ...] = ()) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, help=text, unit=unit, labels=labels, known=known)


def _gauge(name: str, text: str, unit: str = "", labels: tuple[str, ...] = ()) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, help=text, unit=unit, labels=labels)


def _seconds(name: str, text: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(name=name, kind=Kind.HISTOGRAM, help=text, unit="seconds", buckets=buckets)


def _info(name: str, text: str, labels: tuple[str, ...]) -> Metric:
    return Metric(name=name, kind=Kind.INFO, help=text, labels=labels)


_STEP_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""From a small model on a GPU to `http.unhealthy_after_s`, past which the process counts as hung."""
_STORE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""From a local directory to `store.retry_budget_s`, past which the process ends; 30 is the lease's life."""
_SCORED: Final = ("model", "source")
_SOURCE: Final = "`source` is the topic unless ingest.fields.source is set; `all` is the whole stream."

_STREAM = (
    _counter(
        "streamlearn_events_total",
        "Events passed for good, by what became of them: admitted, duplicate, filtered or dead_letter.",
        labels=("outcome",),
        known=tuple(Outcome),
    ),
    _counter(
        "streamlearn_offsets_lost_total",
        "Offsets that Kafka's retention removed before they were read.",
    ),
    _counter(
        "streamlearn_rejections_total",
        "Records that are no events, by the stage that refused them and the name of the error.",
        labels=("stage", "error"),
    ),
    _counter(
        "streamlearn_dead_letters_sent_total",
        "Records that the dead-letter topic has acknowledged.",
    ),
    _gauge(
        "streamlearn_event_time_lag_seconds",
        "Age of the last event passed, by its own time stamp; 0 when nothing is left to read.",
        "seconds",
    ),
    _gauge(
        "kafka_consumergroup_lag",
        "Records between what was read and the partition's end, by the name that Kafka dashboards know.",
        labels=("consumergroup", "topic", "partition"),
    ),
)

_KAFKA = (
    _gauge("streamlearn_partitions", "Partitions that are being read."),
    _gauge("streamlearn_ingest_buffer_records", "Records decoded and tokenized that wait for the learner."),
    _gauge("streamlearn_ingest_buffer_bytes", "Memory of the records that wait for the learner.", "bytes"),
    _gauge("streamlearn_ingest_paused", "1 while fetching pauses because the buffer is full, else 0."),
    _counter("streamlearn_kafka_received_bytes_total", "Bytes received from the brokers.", "bytes"),
    _counter(
        "streamlearn_kafka_errors_total",
        "Errors of the Kafka client, by librdkafka's code; it mends most of them itself.",
        labels=("code",),
    ),
    _counter(
        "streamlearn_kafka_retries_total",
        "Tries to make dead letters safe that were made again, by operation.",
        labels=("operation",),
        known=("send", "flush"),
    ),
    _gauge("streamlearn_kafka_connected_brokers", "Brokers that a connection is open to."),
    _gauge(
        "streamlearn_kafka_broker_rtt_seconds",
        "Mean round trip of a request to a broker, lately.",
        "seconds",
        labels=("broker",),
    ),
)

_LEARNING = (
    _counter("streamlearn_steps_total", "Optimiser steps, dropped ones included."),
    _counter("streamlearn_steps_dropped_total", "Steps dropped because a loss or a gradient was not finite."),
    _counter(
        "streamlearn_tokens_learnt_total",
        "Scored tokens at their first visit: what the stream has taught.",
        "tokens",
    ),
    _counter(
        "streamlearn_tokens_trained_total",
        "Scored tokens of all visits, by why they were in the step: fresh, window, reservoir or anchor.",
        "tokens",
        labels=("role",),
        known=tuple(Role),
    ),
    _seconds("streamlearn_step_seconds", "Time of one step: forward, backward and update.", _STEP_BUCKETS_S),
    _gauge(
        "streamlearn_tokens_per_second",
        "Speed of the last step alone; for the whole line take the rate of streamlearn_tokens_trained_total.",
        "tokens per second",
    ),
    _gauge("streamlearn_gradient_norm", "L2 norm of the last step's gradient, before clipping."),
    _counter(
        "streamlearn_steps_clipped_total",
        "Steps whose gradient was drawn back, by the bound on its norm or as an outlier among the steps before.",
    ),
    _gauge("streamlearn_learning_rate", "Learning rate of the last step, what drift does to it included."),
    _gauge(
        "streamlearn_learning_rate_factor",
        "What the reaction to drift multiplies the learning rate by; 1 where there is none.",
    ),
    _gauge(
        "streamlearn_anchor_kl_nats_per_token",
        "KL(base‖adapted) on the anchor chunks of the last step that had any: how far the model is from its base.",
        "nats per token",
    ),
    _counter(
        "streamlearn_chunks_passed_over_total",
        "Fresh chunks that were scored and not learnt: far less predictable than the rest, or known by heart.",
        labels=("reason",),
        known=tuple(Junk),
    ),
    _counter(
        "streamlearn_drift_alarms_total",
        "Times that the stream was found to have changed, by whose loss rose: of the frozen base or the live model.",
        labels=("signal",),
        known=("base", "live"),
    ),
    _gauge("streamlearn_window_chunks", "Chunks of the recent past that may be replayed."),
    _gauge("streamlearn_window_tokens", "Tokens of the recent past that may be replayed.", "tokens"),
    _gauge(
        "streamlearn_window_effective_chunks",
        "Effective sample size of the window: how many equally weighted chunks would tell as much.",
    ),
    _gauge("streamlearn_reservoir_chunks", "Chunks of the whole past that may be replayed."),
)

_SCORES = (
    _gauge(
        "streamlearn_nats_per_token",
        "Mean loss before learning, over the life of the lineage; live and base are over the same sampled chunks. "
        f"{_SOURCE}",
        "nats per token",
        labels=_SCORED,
    ),
    _gauge(
        "streamlearn_bits_per_byte",
        f"The same loss in bits per byte of text, which compares models with different tokenizers. {_SOURCE}",
        "bits per byte",
        labels=_SCORED,
    ),
    _gauge(
        "streamlearn_nats_per_token_fading",
        f"Mean loss before learning, lately: alpha 0.99 is about the last 100 chunks, 0.999 the last 1,000. {_SOURCE}",
        "nats per token",
        labels=(*_SCORED, "alpha"),
    ),
    _gauge(
        "streamlearn_bits_per_byte_fading",
        f"The same loss lately in bits per byte of text, with the same alphas. {_SOURCE}",
        "bits per byte",
        labels=(*_SCORED, "alpha"),
    ),
    _gauge(
        "streamlearn_gain_nats_per_token",
        "Loss of the frozen base minus loss of the live model on the same chunks; above 0, learning helps.",
        "nats per token",
    ),
)

_JUDGEMENT = (
    _gauge("streamlearn_champion_version", "Number of the version that alias `champion` names; 0 is the base."),
    _gauge("streamlearn_candidate_version", "Number of the version that is compared with the champion; 0 is none."),
    _gauge(
        "streamlearn_candidate_blocks",
        "Blocks of 16 sampled chunks on which candidate and champion were compared; the gate decides from "
        "`gate.min_blocks` on.",
    ),
    _gauge(
        "streamlearn_candidate_gain_nats_per_token",
        "Loss of the champion minus loss of the candidate on the same chunks; above 0, the candidate is better.",
        "nats per token",
    ),
    _gauge(
        "streamlearn_candidate_gain_bound_nats_per_token",
        "What that gain is above with 95 % confidence, however often one looks; the candidate is promoted when it "
        "exceeds `gate.min_gain`.",
        "nats per token",
    ),
    _gauge(
        "streamlearn_candidate_held_out_rise_nats_per_token",
        "What the candidate costs on held-out text above the base: forgetting. From `gate.max_held_out_rise` on it is "
        "refused.",
        "nats per token",
    ),
    _gauge(
        "streamlearn_watch_gain_nats_per_token",
        "Loss of the champion before minus loss of the new one while it is watched, else 0; far below 0, it is taken "
        "back.",
        "nats per token",
    ),
    _counter(
        "streamlearn_rulings_total",
        "What became of candidates and new champions.",
        labels=("decision",),
        known=tuple(Decision),
    ),
)

_VERSIONS = (
    _seconds(
        "streamlearn_checkpoint_seconds",
        "Time from handing a checkpoint over until it is committed and, where due, published.",
        _STORE_BUCKETS_S,
    ),
    _counter("streamlearn_checkpoint_bytes_total", "Bytes of committed checkpoints and their ledgers.", "bytes"),
    _gauge(
        "streamlearn_checkpoint_timestamp_seconds",
        "When this process last committed a checkpoint, seconds since 1970.",
        "seconds",
    ),
    _counter("streamlearn_checkpoints_damaged_total", "Checkpoints that were found damaged on the store at a start."),
    _seconds(
        "streamlearn_publish_seconds",
        "Time from a committed checkpoint until its version is whole and `latest` points at it.",
        _STORE_BUCKETS_S,
    ),
    _counter("streamlearn_publish_bytes_total", "Bytes of published versions.", "bytes"),
    _gauge("streamlearn_version", "Number of the newest published version; 0 before the first."),
    _gauge(
        "streamlearn_version_created_timestamp_seconds",
        "When the newest version was published, seconds since 1970; its age is time() minus this.",
        "seconds",
    ),
    _gauge("streamlearn_epoch", "How many writers the lineage has had, this one included."),
    _counter("streamlearn_takeovers_total", "Times that this process took a lineage over from an earlier writer."),
    _counter(
        "streamlearn_store_retries_total",
        "Requests to the store that were tried again, by operation.",
        labels=("operation",),
        known=("get", "create", "swap", "list", "delete", "probe"),
    ),
)

_PROCESS = (
    _gauge(
        "streamlearn_ready",
        "1 while the worker learns or waits for events, 0 while it starts, stands by, ends, or can admit nothing.",
    ),
    _gauge(
        "streamlearn_loop_age_seconds",
        "Time since the loop last came round; 0 while it is not meant to (loading, standing by).",
        "seconds",
    ),
    _info("streamlearn_build_info", "Which release runs, on which Python.", ("version", "python")),
    _info(
        "streamlearn_model_info",
        "Which base model is adapted, and how: `weights` is the first 12 digits of its digest.",
        ("base", "revision", "weights", "rank"),
    ),
)

SECTIONS: Final[Mapping[str, tuple[Metric, ...]]] = MappingProxyType(
    {
        "The stream": _STREAM,
        "Reading Kafka": _KAFKA,
        "Learning": _LEARNING,
        "Scores": _SCORES,
        "The gate": _JUDGEMENT,
        "Checkpoints and versions": _VERSIONS,
        "The process": _PROCESS,
    }
)
"""The catalogue in the order of the journey of an event."""

CATALOGUE: Final[Mapping[str, Metric]] = MappingProxyType(
    {metric.name: metric for metrics in SECTIONS.values() for metric in metrics}
)
"""The catalogue by name."""
