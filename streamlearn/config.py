"""Every knob with its unit, its default and the reason for it, each stated once.

Reading a file and the environment is `config_file.py`'s; this module knows
what a configuration is. It never imports torch.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")


def _lineage_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            "becomes part of storage keys: use 1-128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return name


LineageName = Annotated[str, AfterValidator(_lineage_name)]


def _some_text(text: str) -> str:
    if not text.strip():
        # Not a ValueError: the error then goes on with what the key is for and what it is when left out.
        raise PydanticCustomError("empty_text", "must not be empty")
    return text


Text = Annotated[str, AfterValidator(_some_text)]
"""A text that names something."""


def _topic_name(topic: str) -> str:
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise ValueError(
            f"{topic!r} can be no topic's name, so that nothing would ever go through it: write 1-249 letters, "
            "digits, '.', '_' or '-'"
        )
    return topic


TopicName = Annotated[str, AfterValidator(_topic_name)]


class Section(BaseModel):
    """One `[section]` of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Stream(Section):
    """What is learnt, under which name."""

    name: LineageName
    """The lineage: a chain of checkpoints with one writer, and the folder under `store.url` that holds it."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seeds the adapter's start and every draw of replay, so that a run can be repeated."""


class Kafka(Section):
    """Where events come from."""

    bootstrap_servers: Text = Field(repr=False)
    """`host:port`, comma-separated."""
    topics: tuple[str, ...] = Field(min_length=1)
    """Topic names; one that begins with `^` is a regular expression over all topic names."""
    start: Literal["earliest", "latest"] | datetime = "latest"
    """Where a new lineage begins: an end of the log, or a time (`2026-11-01T00:00:00Z`). A lineage that
    exists goes on where its head checkpoint stands. `latest`, because an unasked-for backfill of a large topic
    costs days."""
    group: Text | None = None
    """Consumer group that mirrors our progress for lag tools; `streamlearn-<stream.name>` unless given.
    Offsets are never read from it."""
    discovery_interval_s: float = Field(default=60.0, gt=0)
    """Seconds between looks for new partitions and topics; Flink's and Spark's order of magnitude."""
    on_lost_data: Literal["fail", "skip"] = "fail"
    """When offsets we have not read are gone, by retention or with a topic that was deleted and created again:
    stop with both offsets named, or count what is known to be lost and go on at the first offset there is."""
    retry_budget_s: float = Field(default=300.0, ge=0)
    """Seconds for which dead letters that the brokers do not take are tried again before the process ends; no
    checkpoint can be committed without them. Reading waits for brokers that are away without a bound."""
    dead_letter_topic: TopicName | None = None
    """Topic for records that are no events, with Kafka Connect's headers. Without one they are counted and
    described in the log at a limited rate."""
    client: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)
    """Any librdkafka property (`[kafka.client]`): TLS, SASL, fetch sizes."""

    @field_validator("topics", mode="before")
    @classmethod
    def _one_topic_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("start", mode="before")
    @classmethod
    def _a_number_is_no_time(cls, value: Any) -> Any:
        if _is_number(value):
            raise ValueError(
                "a number could be seconds or milliseconds since 1970, and the lineage would begin elsewhere than "
                "meant: write an end of the log ('earliest', 'latest') or an ISO time such as 2026-11-01T00:00:00Z"
            )
        return value

    @field_validator("topics")
    @classmethod
    def _topics_can_exist(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        for topic in topics:
            if not topic.startswith("^"):
                try:
                    _topic_name(topic)
                except ValueError as error:
                    raise ValueError(f"{error}; a regular expression begins with '^'") from None
            else:
                try:
                    re.compile(topic)
                except re.error as error:
                    raise ValueError(f"{topic!r} is no regular expression: {error}") from None
        return topics

    @field_validator("client")
    @classmethod
    def _ours_stay_ours(cls, client: dict[str, Any]) -> dict[str, Any]:
        reserved = {
            "bootstrap.servers", "group.id", "enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset",
            "enable.partition.eof", "transactional.id",
        }  # fmt: skip
        if taken := sorted(reserved & client.keys()):
            raise ValueError(
                f"{', '.join(taken)} cannot be set here: streamlearn keeps its own offsets; "
                "use kafka.bootstrap_servers, kafka.group and kafka.start"
            )
        return client


class Fields(Section):
    """Where the parts of an event are in a JSON record, as dotted paths (`payload.body`)."""

    text: Text = "text"
    """The text, or an object `{"prompt", "completion"}` or `{"messages"}`. Where this path is absent, those keys
    are looked for at the top level."""
    id: Text | None = None
    """The producer's own id; `<topic>:<partition>:<offset>` unless given."""
    ts: Text | None = None
    """Event time: seconds or milliseconds since 1970, or ISO 8601. The record's time stamp unless given."""
    source: Text | None = None
    """What scores and replay are stratified by; the topic unless given."""


class Ingest(Section):
    """From records to chunks."""

    format: Literal["json", "text"] = "json"
    """`text`: the record's value is the text. `json`: one object, see `[ingest.fields]`."""
    fields: Fields = Fields()
    min_chars: int = Field(default=1, ge=1)
    """Characters; shorter texts are filtered. Raise it where tiny events carry nothing."""
    max_chars: int = Field(default=200_000, ge=1)
    """Characters; longer texts are dead letters, as one event must not hold up the stream."""
    max_record_bytes: int = Field(default=4 * 2**20, ge=1)
    """Bytes of a record's value; larger ones are dead letters, unparsed."""
    max_sources: int = Field(default=50, ge=1)
    """Distinct sources told apart in metrics and scores; later ones count as `other`, so that a producer's
    mistake cannot flood Prometheus."""
    buffer_records: int = Field(default=2_000, ge=1)
    """Records ready for the learner; above it fetching pauses. A few minutes of learning on two cores."""
    buffer_bytes: int = Field(default=32 * 2**20, ge=1)
    """Bytes of the same buffer."""

    @model_validator(mode="after")
    def _some_text_passes(self) -> Ingest:
        if self.min_chars > self.max_chars:
            raise ValueError(
                f"ingest.min_chars = {self.min_chars} is above ingest.max_chars = {self.max_chars}, so that no text "
                "would ever be learnt: lower the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _fields_are_looked_for(self) -> Ingest:
        if self.format == "text" and self.fields != Fields():
            raise ValueError(
                "[ingest.fields] is given, but ingest.format = 'text' takes the whole value as the text, so that no "
                "field would be looked for: write ingest.format = 'json', or leave [ingest.fields] out"
            )
        return self


class Errors(Section):
    """What a record that is no event does."""

    tolerance: Literal["all", "none"] = "all"
    """`all`: it becomes a dead letter and the worker goes on. `none`: the worker stops before it with exit code 1
    (Kafka Connect's word)."""


class Window(Section):
    """How much the past still counts."""

    half_life: str = "1d"
    """Event time after which an event is half as likely to be replayed, with unit (`90s`, `15m`, `6h`, `7d`, `2y`).
    A day suits news; take the time in which your stream goes stale."""
    length_half_lives: float = Field(default=3.0, gt=0)
    """Half-lives after which an event leaves the window; at 3 it counts an eighth."""
    min_effective_chunks: int = Field(default=256, ge=1)
    """Floor on the effective sample size: with fewer, the half-life is lengthened, or replay would repeat a
    handful of chunks."""
    max_tokens: int = Field(default=1_000_000, ge=1)
    """Tokens; the oldest leave first. About 10 MB in every checkpoint."""
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    """Bytes of the window in memory and in every checkpoint; the oldest leave first."""

    @property
    def half_life_s(self) -> float:
        """The half-life in seconds."""
        return duration_s(self.half_life)

    @field_validator("half_life")
    @classmethod
    def _half_life_is_a_duration(cls, text: str) -> str:
        if duration_s(text) <= 0:
            raise ValueError("must be longer than nothing: with no memory there is no replay")
        return text


_LEAST_FRESH = 0.1
"""Share of a step's tokens."""


class Mix(Section):
    """Shares of a step's tokens; what is not listed is fresh."""

    window: float = Field(default=0.15, ge=0, lt=1)
    """Share drawn from the window by decay."""
    reservoir: float = Field(default=0.10, ge=0, lt=1)
    """Share drawn uniformly from the whole past: replay against forgetting."""
    anchor: float = Field(default=0.05, ge=0, lt=1)
    """Share drawn from the anchor; fresh where there is none."""
    window_visits: int = Field(default=2, ge=0)
    """Further visits that one chunk may get from the window; more is memorising."""
    reservoir_tokens: int = Field(default=256_000, ge=0)
    """Size of the reservoir in tokens (1,000 chunks of 256)."""

    @model_validator(mode="after")
    def _something_is_fresh(self) -> Mix:
        if (share := self.window + self.reservoir + self.anchor) > 1.0 - _LEAST_FRESH:
            raise ValueError(
                f"mix.window + mix.reservoir + mix.anchor = {share:g} leaves under a tenth for fresh events, and "
                "the worker would fall ever further behind: lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _shares_have_something_to_draw(self) -> Mix:
        faults = [
            f"mix.{size} = 0, so that {holds} and mix.{share} = {getattr(self, share):g} would have no effect: "
            f"set mix.{share} = 0 as well, or leave mix.{size} out"
            for share, size, holds in (
                ("window", "window_visits", "no chunk is visited again"),
                ("reservoir", "reservoir_tokens", "the reservoir stays empty"),
            )
            if getattr(self, size) == 0 and getattr(self, share) > 0
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Anchor(Section):
    """Text on which the adapter is held close to the base, as KL(base‖adapted)."""

    chunks: int = Field(default=128, ge=0)
    """Chunks that the base itself writes when a lineage begins, unless `file` is given; 0 for no anchor."""
    tokens: int = Field(default=192, ge=16)
    """Tokens of each; at most a context's."""
    weight: float = Field(default=24.0, gt=0)
    """Of the anchor's divergence against the text's loss."""

    file: Text | None = None
    """JSONL (`{"text": …}`) or plain text of your own that is rehearsed in `mix.anchor` of each step. Read when a
    lineage begins, and kept in every checkpoint: a few hundred kilobytes are plenty."""

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self.file is not None or self.chunks > 0


class LearnerSection(Section):
    """How a step is taken."""

    optimizer: Literal["adamw", "adam", "momentum", "sgd"] = "adamw"
    """AdamW with betas (0.9, 0.99): a shorter second moment than usual, as a stream changes."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Constant, as a stream has no end to anneal to. For rank 32 with AdamW or Adam; rank 16 wants 1.4e-3, rank 64
    7e-4, and too high a rate loses more than too low a one. sgd and momentum want about 100 times as much."""
    head_rate: float = Field(default=0.5, gt=0)
    """Factor on the rate for the output head, where that is adapted; half the rate was worth 0.005 nats per token on
    release notes, twice the rate lost 0.03."""
    full_rate_gain: float = Field(default=0.01, ge=0)
    """Nats per token of gain over the base, on the last sampled chunks, from which the rate is the full one; below,
    it is smaller in proportion, so that a stream that teaches nothing does little harm. 0 for always full, as it is
    where `evaluation.sample` is 0."""
    least_rate: float = Field(default=0.06, gt=0, le=1)
    """Factor on the rate while nothing is gained. On a stream that teaches nothing 0.06 lost 0.003 nats per token, 0.1
    lost 0.005, and a begin at the full rate 0.03."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up. None, as the rate follows the gain and is small at first anyway; 5 do where
    `full_rate_gain` is 0, and a long one throws the first part of the stream away."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled decay of the adapter toward zero, per unit of learning rate."""
    fade_half_lives: float | None = Field(default=None, gt=0)
    """Half-lives of the window (`window.half_life`) in which the adapter loses half of what no step renews; never
    unless given."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Bound on the gradient's L2 norm."""
    clip_z: float = Field(default=2.5, gt=0)
    """A gradient's norm is an outlier, and drawn back, above so many standard deviations of the last 33 or so."""
    served_average: float = Field(default=0.99, ge=0, lt=1)
    """What is published is the exponential average of the adapter over steps with this factor; 0 publishes the
    newest step's weights."""
    step_chunks: int = Field(default=1, ge=1)
    """Fresh chunks per optimiser step; small steps beat large ones at equal tokens."""
    min_step_tokens: int = Field(default=128, ge=1)
    """Tokens of text below which a step is shorter: a line must not move the adapter as far as a page. It gains 0.02
    nats per token on release notes, a third of which are lines."""
    catch_up_chunks: int | None = Field(default=None, ge=1)
    """Fresh chunks per step while more events wait than came since the last checkpoint: less is learnt from each, and
    a GPU is through with them sooner. As `step_chunks` unless given; 16 is a good start on a GPU, and a CPU gains
    nothing. Decided at checkpoints."""
    flush_s: float = Field(default=5.0, gt=0)
    """Seconds after which a step that is not full is taken, so that a quiet stream is still learnt. Beside
    `catch_up_chunks` the only place where wall time decides what is learnt together; the ledger marks such steps."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; its own choice unless given."""

    @model_validator(mode="after")
    def _catching_up_is_larger(self) -> LearnerSection:
        if self.catch_up_chunks is not None and self.catch_up_chunks < self.step_chunks:
            raise ValueError(
                f"learner.catch_up_chunks = {self.catch_up_chunks} is below learner.step_chunks = {self.step_chunks}, "
                "so that a worker that is behind would fall further behind: raise the first, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _only_adamw_decays(self) -> LearnerSection:
        if self.weight_decay > 0 and self.optimizer != "adamw":
            raise ValueError(
                f"learner.weight_decay = {self.weight_decay:g} is given, but learner.optimizer = {self.optimizer!r} "
                "decays no weights, so that it would have no effect: write learner.optimizer = 'adamw', or leave "
                "learner.weight_decay out"
            )
        return self


class Model(Section):
    """The base model, which never changes."""

    name: Text
    """Hub id, local directory, GGUF file, or the short name `smollm2-135m`."""
    revision: Text | None = None
    """Hub revision; the newest at first use unless given, and recorded either way."""
    served_name: Text | None = None
    """`base_model_name_or_path` in published adapters, as your inference server names the base; `model.name`, or the
    hub id behind a short name, unless given."""
    device: str = "auto"
    """`auto` (a GPU where PyTorch sees one), `cpu`, `cuda` or `cuda:1`."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the base's weights. `auto` times both at start and takes the faster; the adapter is fp32 always."""
    context_tokens: int | None = Field(default=None, ge=16)
    """Tokens per chunk; 256 on CPU, 1024 on GPU unless given."""
    cache_dir: Text | None = None
    """Where converted models are kept; `$XDG_CACHE_HOME/streamlearn` unless given."""

    @field_validator("device")
    @classmethod
    def _device_is_one(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise PydanticCustomError("no_device", "must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
        return device


class Lora(Section):
    """The adapter's shape; fixed for the life of a lineage."""

    rank: Literal[1, 8, 16, 32, 64, 128, 256] = 32
    """vLLM takes no others. On release notes 16 gained a hundredth of a nat per token less, 64 no more."""
    alpha: float | None = Field(default=None, gt=0)
    """Twice the rank unless given."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of linear layers, or all of them but the output head."""
    output_head: bool = True
    """Whether the output head is adapted beside them. It learns the words of the stream, worth 0.03 nats per token on
    release notes, and costs rank × vocabulary parameters; off for a server that takes no adapter of the head."""

    @field_validator("rank", mode="before")
    @classmethod
    def _rank_from_the_environment(cls, rank: object) -> object:
        # Of a choice among numbers no text is one, unlike elsewhere.
        return int(rank) if isinstance(rank, str) and rank.strip().isdecimal() else rank

    @field_validator("target_modules")
    @classmethod
    def _something_is_adapted(cls, modules: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not modules or not all(module.strip() for module in modules):
            raise ValueError(
                "names no layer, so that nothing could be learnt: name linear layers, or write 'all-linear'"
            )
        return modules


class Evaluation(Section):
    """How we know whether learning helps."""

    sample: float = Field(default=0.2, ge=0, le=1)
    """Share of chunks that the frozen base scores too, the first 32 of a lineage all unless it is 0;
    each costs a third of a learning step."""


class Gate(Section):
    """When a newer version becomes champion, and when it is taken back."""

    enabled: bool = True
    """Whether versions are compared and alias `champion` is moved; each version compared costs two forwards of the
    sampled chunks (`evaluation.sample`)."""
    min_gain: float = Field(default=0.002, ge=0)
    """Nats per token by which a version must be better for certain; less is not worth a change."""
    min_blocks: int = Field(default=20, ge=2)
    """Blocks of 16 sampled chunks before the first decision, as the bound leans on the central limit theorem."""
    max_blocks: int = Field(default=200, ge=2)
    """Blocks after which an undecided version makes room for a newer one, and a champion is watched no longer."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Bound on the chance that a version that is no better is ever promoted."""
    max_held_out_rise: float = Field(default=0.03, gt=0)
    """Nats per token above the base on held-out text from which a version is refused: it has forgotten too much."""
    held_out: Text | None = None
    """JSONL (`{"text": …}`) or plain text on which forgetting is measured, and which is never learnt; speeches that
    come with streamlearn unless given."""
    held_out_chunks: int = Field(default=24, ge=0)
    """Chunks of it; 0 measures no forgetting. Scored once a candidate, about a hundredth of a second each on a GPU."""
    watch_alpha: float = Field(default=0.01, gt=0, lt=1)
    """Bound on the chance that a champion that is no worse is ever taken back by the test."""
    plunge: float = Field(default=0.3, gt=0)
    """Nats per token worse than the champion before, in three blocks on end, that need no test."""

    @model_validator(mode="after")
    def _there_is_time_to_decide(self) -> Gate:
        if self.max_blocks < self.min_blocks:
            raise ValueError(
                f"gate.max_blocks = {self.max_blocks} is below gate.min_blocks = {self.min_blocks}, so that no version "
                "could ever be promoted: raise the first or lower the second"
            )
        return self


class Drift(Section):
    """What happens when the stream changes."""

    watch: bool = True
    """Whether rises of the losses of base and live model are watched for (ADWIN)."""
    delta: float = Field(default=0.05, gt=0, lt=1)
    """ADWIN's bound on a false alarm, and a loose one, chosen on a single switch: at 0.002 no alarm came within 128
    chunks of it, at 0.05 one after 48, and none without a reason in 1,300. On another switch it came after 10."""
    min_chunks_apart: int = Field(default=200, ge=1)
    """Fresh chunks between two alarms."""
    react: bool = False
    """Whether an alarm changes how is learnt, or is only told. On a real switch it cost 0.021 nats per token: the rate
    is near what is stable already, and live learning catches up by itself; see docs/benchmarks.md."""
    past_weight: float = Field(default=0.1, ge=0, le=1)
    """Factor on the replay of chunks from before the change."""
    half_life: float = Field(default=0.25, gt=0, le=1)
    """Factor on the half-life; it doubles back every `min_chunks_apart` chunks."""
    rate: float = Field(default=1.5, ge=1)
    """Factor on the learning rate."""
    rate_steps: int = Field(default=100, ge=0)
    """Steps for which the rate is raised."""


class Hygiene(Section):
    """What is admitted, and not learnt from."""

    junk_z: float | None = Field(default=3.0, gt=0)
    """A chunk is noise where its loss is so many standard deviations above the mean; none is unless given. At 3, text
    of scrambled letters is passed over among release notes, and one in a hundred of these; at 4, none of it is."""
    near_zero: float = Field(default=0.02, ge=0)
    """Nats per token below which a chunk is known by heart already."""
    near_duplicates: bool = True
    """Whether a text that shares 0.8 of its word triples with one in the window counts as its duplicate."""
    source_share: float | None = Field(default=None, gt=0, le=1)
    """Largest share of the tokens of a half-life that one source (`ingest.fields.source`) may have, never below twice
    an equal part; no bound unless given."""
    source_events: int = Field(default=100_000, ge=1)
    """Largest number of its events in that time, where `source_share` is given."""


class Checkpoint(Section):
    """How often state is made durable."""

    every_s: float = Field(default=60.0, gt=0)
    """Seconds; after a crash at most this much work is done again."""
    every_events: int | None = Field(default=None, ge=1)
    """Events; makes checkpoints fall at the same places in every run."""


class Publish(Section):
    """How often a version is published."""

    every: str = "15m"
    """`500steps`, `10000events`, or a duration (`15m`). Nothing is published where nothing was learnt since."""

    @field_validator("every")
    @classmethod
    def _every_parses(cls, text: str) -> str:
        parse_every(text)
        return text


class LeaseSection(Section):
    """One writer per lineage."""

    ttl_s: float = Field(default=30.0, gt=0)
    """Seconds without renewal after which a standby takes over; long enough for a garbage-collection pause or a
    slow store. A start after a crash waits as long. Give every worker of a lineage the same: a standby goes by its
    own."""


class S3(Section):
    """Access to S3; what is not given is found the way boto3 finds it."""

    endpoint_url: Text | None = Field(default=None, repr=False)
    """For stores other than AWS."""
    region: Text | None = None
    """boto3's own choice unless given."""
    access_key_id: SecretStr | None = None
    """Found the way boto3 finds it unless given."""
    secret_access_key: SecretStr | None = None
    """Comes with `access_key_id`."""
    session_token: SecretStr | None = None
    """Of temporary keys."""
    ca_bundle: Text | None = None
    """PEM file of a private certificate authority."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """`auto`: path style where `endpoint_url` is given, as most stores beside AWS want it."""

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> S3:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            given, wanted = ("access_key_id", "secret_access_key")[:: 1 if self.access_key_id else -1]
            raise ValueError(
                f"store.s3.{given} is given without store.s3.{wanted}, and a mixture of yours and what boto3 finds "
                "would be refused: give both, or neither"
            )
        return self


class Store(Section):
    """Where lineages live."""

    url: str
    """`s3://bucket/prefix`, `file:///directory`, or a bare path."""
    retry_budget_s: float = Field(default=300.0, ge=0)
    """Seconds for which a request that the store does not answer is tried again before the process ends; a stop ends
    it sooner."""
    s3: S3 = S3()


class Http(Section):
    """`/metrics`, `/healthz`, `/readyz`."""

    host: Text = "127.0.0.1"
    """Address to bind; `0.0.0.0` in a container. Metrics name topics, so the default is this machine only."""
    port: int = Field(default=9464, ge=0, le=65535)
    """0 takes a free one and logs it. 9464 is OpenTelemetry's Prometheus port."""
    unhealthy_after_s: float = Field(default=120.0, gt=0)
    """Seconds without a step or an idle poll after which `/healthz` says 503; longer than the longest step."""


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity. Other libraries are heard from `warning` on, and from `info` on where this is `debug`."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: readable on a terminal, JSON elsewhere."""


class Shutdown(Section):
    """How the worker ends."""

    grace_s: float = Field(default=25.0, gt=0)
    """Seconds to finish the step and checkpoint after SIGTERM; under Kubernetes' 30."""


class Config(Section):
    """One `streamlearn.toml`."""

    stream: Stream
    kafka: Kafka
    store: Store
    model: Model
    ingest: Ingest = Ingest()
    errors: Errors = Errors()
    window: Window = Window()
    mix: Mix = Mix()
    anchor: Anchor = Anchor()
    learner: LearnerSection = LearnerSection()
    lora: Lora = Lora()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    drift: Drift = Drift()
    hygiene: Hygiene = Hygiene()
    checkpoint: Checkpoint = Checkpoint()
    publish: Publish = Publish()
    lease: LeaseSection = LeaseSection()
    http: Http = Http()
    log: Log = Log()
    shutdown: Shutdown = Shutdown()

    @property
    def group(self) -> str:
        """The consumer group that mirrors our progress."""
        return self.kafka.group or f"streamlearn-{self.stream.name}"

    @field_validator("store")
    @classmethod
    def _store_is_a_place(cls, store: Store) -> Store:
        # Here, not in Store: a Store made of a command's --store is refused by open_store in the same words.
        store_place(store.url)
        return store

    @model_validator(mode="after")
    def _what_is_given_is_used(self) -> Config:
        if self.store.s3 != S3() and store_place(self.store.url).bucket is None:
            raise ValueError(
                f"[store.s3] is given, but store.url = {self.store.url!r} is a directory, so that nothing would "
                "reach S3: write s3://bucket/prefix, or leave [store.s3] out"
            )
        if self.anchor.file is not None and self.mix.anchor == 0:
            raise ValueError(
                f"anchor.file = {self.anchor.file!r} is given, but mix.anchor = 0, so that it would never be "
                "rehearsed: give mix.anchor a share, or leave anchor.file out"
            )
        return self

    @model_validator(mode="after")
    def _no_feedback_of_dead_letters(self) -> Config:
        letters = self.kafka.dead_letter_topic
        for topic in self.kafka.topics:
            if letters and (letters == topic or (topic.startswith("^") and re.match(topic, letters))):
                raise ValueError(
                    f"kafka.dead_letter_topic = {letters!r} is also read from (kafka.topics has {topic!r}): every bad "
                    "record would come back for ever; take another name or a narrower expression"
                )
        return self


_URL_FORMS = "write s3://bucket/prefix, file:///directory or a path"


class StorePlace(NamedTuple):
    """What `store.url` means: a prefix in a bucket of S3, or a directory."""

    bucket: str | None
    """None for a directory."""
    path: str
    """The prefix as it is written, or the directory's path, in which `~` may stand for home."""


def store_place(url: str) -> StorePlace:
    """Return what `s3://bucket/prefix`, `file:///directory` or a bare path means.

    >>> store_place("s3://models/streamlearn")
    StorePlace(bucket='models', path='/streamlearn')

    Raises:
        ValueError: it is none of these, or could mean another place.
    """
    if not url.strip():
        raise ValueError(f"store.url is empty, and nothing can stand in for it: {_URL_FORMS}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"store.url has a '[' or ']' where the host is, so that it is no URL: {_URL_FORMS}") from None
    if "@" in parts.netloc:
        # Not shown: it holds a secret.
        raise ValueError("store.url holds credentials: move them to store.s3.access_key_id and secret_access_key")
    if parts.scheme in {"s3", "file"} and (parts.query or parts.fragment or url.endswith(("?", "#"))):
        # Nor is this: what stands there may be a signature.
        raise ValueError(f"store.url goes on after '?' or '#', which would be dropped: {_URL_FORMS}")
    if parts.scheme == "s3":
        return _in_bucket(url, parts)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ValueError(f"store.url = {url!r} names no directory: write file:///directory, with three slashes")
        return StorePlace(None, unquote(parts.path))
    if "://" in url:
        raise ValueError(f"store.url = {url!r} is of no kind that lineages can be kept in: {_URL_FORMS}")
    return StorePlace(None, url)


def _in_bucket(url: str, parts: SplitResult) -> StorePlace:
    if not parts.netloc:
        raise ValueError(f"store.url = {url!r} names no bucket: write s3://bucket/prefix")
    if (prefix := parts.path.strip("/")) and {"", ".", ".."} & set(prefix.split("/")):
        raise ValueError(f"store.url = {url!r}: its prefix has a part that is empty, '.' or '..'; leave that part out")
    return StorePlace(parts.netloc, parts.path)


def _is_number(value: Any) -> bool:
    """Whether a value is a number, or a text (from the environment) that is read as one."""
    try:
        float(value)
    except OverflowError:
        # A whole number beyond all floats is one all the same.
        return True
    except (TypeError, ValueError):
        return False
    return True


_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31_557_600.0}
# Of bounded length: more digits are no figure, and looking for where they end would take n² steps.
_DURATION = re.compile(r"\s{0,9}([0-9]{0,18}\.?[0-9]{1,18})\s{0,9}([smhdwy])\s{0,9}")
_EVERY = re.compile(r"\s{0,9}([1-9][0-9_]{0,17})\s{0,9}(steps?|events?)\s{0,9}")


def duration_s(text: str) -> float:
    """Return a duration such as `90s`, `15m`, `6h`, `7d`, `2w`, `1.5y` in seconds.

    >>> duration_s("15m")
    900.0

    Raises:
        ValueError: it has no such form.
    """
    if (match := _DURATION.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is no duration: write a number and a unit, s m h d w or y, such as '15m'")
    return float(match[1]) * _UNIT_S[match[2]]


def parse_every(text: str) -> tuple[Literal["steps", "events", "seconds"], float]:
    """Return how often `text` says, as (unit, amount).

    >>> parse_every("500steps"), parse_every("15m")
    (('steps', 500.0), ('seconds', 900.0))

    Raises:
        ValueError: it is neither steps, events nor a duration.
    """
    if (match := _EVERY.fullmatch(text)) is not None:
        return ("steps" if match[2].startswith("step") else "events"), float(match[1])
    try:
        seconds = duration_s(text)
    except ValueError:
        raise ValueError(f"{text!r}: write '500steps', '10000events' or a duration such as '15m'") from None
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time at all: nothing but publishing would be done")
    return "seconds", seconds
