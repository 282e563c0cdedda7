"""What is written to the store, field by field.

These models are the contract with every reader of a lineage: their JSON
Schemas are published in `docs/schemas/`. `schema_number` rises when a reader
of the old form would be misled.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from streamlearn.core.events import Outcome
from streamlearn.core.judgement import Evidence, Judgement
from streamlearn.core.stored import (
    CheckpointId,
    Count,
    Epoch,
    FileName,
    Instant,
    Offset,
    Partition,
    Sha256,
    Stored,
    VersionName,
)

SCHEMA_NUMBER: Final = 1


class FileDigest(Stored):
    """What a file must be."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class Score(Stored):
    """Mean loss over some chunks, each scored before it was learnt.

    A source is a topic, unless `ingest.fields.source` names a field to split
    the stream by.
    """

    nats_per_token: float
    bits_per_byte: float
    """The same loss in bits per byte of text, which compares models with different tokenizers."""
    tokens: int = Field(ge=0)
    """Scored tokens behind the figures."""
    fading: dict[str, float] = Field(default={})
    """Fading averages in nats per token by their α per chunk: {"0.99": …, "0.999": …}."""
    fading_bits_per_byte: dict[str, float] = Field(default={})
    """The same averages in bits per byte of text: {"0.99": …, "0.999": …}."""
    by_source: dict[str, Score] = Field(default={})
    """The same for each source of the stream: by topic, or by the values of `ingest.fields.source`."""


class Scores(Stored):
    """How the learning adapter and the frozen base did, un-faded over the life of the lineage.

    `live` and `base` are over the same sampled chunks (`evaluation.sample`),
    so their difference is the gain; `live_every_chunk` is over all.
    """

    live: Score | None = None
    base: Score | None = None
    live_every_chunk: Score | None = None


class Totals(Stored):
    """Counts over some part of the stream."""

    events: Count = 0
    """Offsets passed, whatever their outcome."""
    admitted: Count = 0
    duplicate: Count = 0
    filtered: Count = 0
    dead_letter: Count = 0
    chunks_learnt: Count = 0
    """First visits."""
    chunks_passed_over: Count = 0
    """Of these, scored and not learnt: junk, or known by heart."""
    tokens: Count = 0
    """Scored tokens of first visits: what the stream taught."""
    tokens_trained: Count = 0
    """Scored tokens of all visits, replay included."""
    steps: Count = 0
    steps_dropped: Count = 0
    """Steps whose loss or gradient was not finite."""
    offsets_lost: Count = 0
    """Offsets that retention removed unseen (`kafka.on_lost_data = "skip"`)."""

    def minus(self, earlier: Totals) -> Totals:
        """Return what came after `earlier`."""
        return Totals(**{name: getattr(self, name) - getattr(earlier, name) for name in Totals.model_fields})


class BaseModelCard(Stored):
    """The base model, exactly."""

    name: str
    """What the user asked for: hub id, directory or file."""
    served_name: str
    """`base_model_name_or_path` of the published adapter, as inference servers know the base."""
    revision: str | None = None
    config_digest: Sha256
    weights_digest: Sha256
    tokenizer_digest: Sha256
    parameters: int
    dtype: Literal["bf16", "fp32"] | None = None
    """Number format the base computes in; scores in different ones differ by about a hundredth of a nat."""


class LoraShape(Stored):
    """The adapter's shape."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    parameters: int


class Origin(Stored):
    """What the offsets of `progress` are offsets of.

    A topic that was deleted and created again bears the same name and has
    other records at the same offsets; its id tells (KIP-516).
    """

    topic_ids: dict[str, dict[Partition, str]] = Field(default={})
    """{topic: {partition: id of the topic that the offset in `progress` belongs to}}, where the brokers tell ids."""
    entries: tuple[str, ...] = ()
    """Entries of `kafka.topics` that had been looked up: what comes to match them later is read from its beginning,
    whatever `kafka.start` says."""
    passed: dict[str, dict[Partition, Offset]] = Field(default={})
    """Where reading goes on, in partitions in which it is beyond `progress`: behind what the broker left there that is
    no record (markers, aborted transactions). Should retention remove that too, nothing of ours is lost."""


class Draft(Stored):
    """What the daemon knows of a checkpoint; the registry adds its place in the chain."""

    created_at: Instant
    """ISO 8601, UTC."""
    progress: dict[str, dict[Partition, Offset]]
    origin: Origin = Origin()
    totals: Totals
    scores: Scores
    event_time: tuple[float, float] | None = None
    """Oldest and newest event time seen, seconds since 1970."""
    base: BaseModelCard
    lora: LoraShape
    config_digest: Sha256
    """Of the resolved configuration without secrets and addresses."""
    libraries: dict[str, str]
    judgement: Judgement = Judgement()
    stream: dict[str, Any]
    """State of `core` that is not an array: random generators, averages, counters."""


class CheckpointState(Draft):
    """`checkpoints/<seq>-<digest12>/state.json`; its own digest names the checkpoint."""

    schema_number: Literal[1] = SCHEMA_NUMBER
    lineage: str
    epoch: Epoch
    seq: int = Field(ge=1, lt=10**10)
    parent: CheckpointId | None
    files: dict[FileName, FileDigest]
    ledger: FileDigest
    """Of `ledger/<the same name>.jsonl.gz`."""
    version: int | None = Field(default=None, ge=1, lt=10**9)
    """The version this checkpoint is published as, if it is."""
    parent_version: int | None = Field(default=None, ge=1, lt=10**9)
    adapter_config: str | None = None
    """PEFT's `adapter_config.json`, so that any later writer can finish the version."""


class Lease(Stored):
    """Who may write, and until when."""

    owner: str
    expires_at: float
    """Wall clock of the owner, seconds since 1970; a hint, the epoch is the fence."""


class Head(Stored):
    """`head.json`, the single commit point of a lineage."""

    schema_number: Literal[1] = SCHEMA_NUMBER
    lineage: str
    epoch: Epoch
    checkpoint: CheckpointId | None = None
    version: int = Field(default=0, ge=0, lt=10**9)
    """Newest allocated version; its files may still be on their way. 0: none."""
    lease: Lease | None = None


class Manifest(Stored):
    """`versions/<version>/manifest.json`, written last: a version without it does not exist."""

    schema_number: Literal[1] = SCHEMA_NUMBER
    lineage: str
    version: VersionName
    epoch: Epoch
    created_at: Instant
    parent: VersionName | None
    checkpoint: CheckpointId
    base: BaseModelCard
    lora: LoraShape
    progress: dict[str, dict[Partition, Offset]]
    totals: Totals
    since_parent: Totals
    event_time: tuple[float, float] | None
    config_digest: Sha256
    libraries: dict[str, str]
    scores: Scores
    judgement: Judgement = Judgement()
    files: dict[FileName, FileDigest]


class AliasMove(Stored):
    """One entry of an alias's history."""

    at: str
    """ISO 8601, UTC."""
    by: str
    from_version: VersionName | None
    to_version: VersionName | None
    reason: str
    epoch: Epoch
    ruling: int | None = Field(default=None, ge=1)
    """Number of the ruling that it carries out; None where the gate had no part in it."""
    evidence: Evidence | None = None
    """What that ruling rests on."""


class Alias(Stored):
    """`aliases/<name>.json`: the current target and every earlier one."""

    schema_number: Literal[1] = SCHEMA_NUMBER
    name: str
    version: VersionName | None
    epoch: Epoch
    """Epoch of the last writer that touched it; a writer with a lower one is fenced."""
    history: tuple[AliasMove, ...] = ()


class EventLine(Stored):
    """Ledger line: one offset of the stream and what became of it."""

    kind: Literal["event"] = "event"
    id: str
    topic: str
    partition: Partition
    offset: Offset
    ts: float
    outcome: Outcome
    chunks: int = 0
    tokens: int = 0
    bytes: int = 0


class ScoreLine(Stored):
    """Ledger line: the first visit of a chunk."""

    kind: Literal["score"] = "score"
    id: str
    chunk: int
    tokens: int
    bytes: int
    nll: float | None
    """Live nats, summed over the chunk's scored tokens; null where it was not finite."""
    nll_base: float | None = None
    flushed: bool = False
    """The step was taken by the flush timer, before a whole batch had come together."""


LedgerLine = Annotated[EventLine | ScoreLine, Field(discriminator="kind")]
LEDGER_LINE: TypeAdapter[EventLine | ScoreLine] = TypeAdapter(LedgerLine)


def version_name(number: int) -> str:
    """Return how version `number` is written.

    >>> version_name(42)
    'v000042'
    """
    return f"v{number:06d}"


def version_number(name: str) -> int:
    """Return the number in a version's name.

    >>> version_number("v000042")
    42
    """
    return int(name.removeprefix("v"))
