"""What the loop did, as metrics and as one running summary.

Translates; decides nothing. Metric names are those of `core/metrics.py`.
Counters are exact after every step; gauges that cost something to compute
follow within a second, and are exact at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from streamlearn.core.batches import Role, StepPlan, StepResult
from streamlearn.core.events import Arrival, Outcome
from streamlearn.core.judgement import Alarm, Decision, Judgement, Ruling
from streamlearn.core.manifest import BaseModelCard, LoraShape, Score, Scores, Totals, version_number
from streamlearn.core.stream import Batch, StreamState
from streamlearn.ports import Clock, Committed, IntakeStatus, Telemetry

_log = structlog.get_logger(__name__)

_REFRESH_S = 1.0
"""Between two looks at scores, window and lag: no scrape is more often, and on a GPU there are dozens of steps a
second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """Where a run stands after a step."""

    totals: Totals
    """Over the life of the lineage."""
    scores: Scores
    tokens_per_s: float
    """Trained tokens a second of this run, everything included."""
    step_tokens_per_s: float
    """Trained tokens a second of the bare step."""
    lag_records: int
    newest_version: int
    window_chunks: int
    nats: tuple[tuple[float, float | None, int], ...]
    """Of the step's fresh chunks: live nats, base nats where sampled, scored tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What one run of the worker did."""

    seconds: float
    """From ready to the end of the last checkpoint."""
    step_seconds: float
    """Of these, in the learner's step alone."""
    events: int
    """Offsets passed in this run."""
    tokens_trained: int
    """Scored tokens of all visits in this run."""
    totals: Totals
    """Over the life of the lineage."""
    scores: Scores
    newest_version: int


class Reporter:
    """Keeps metrics current and the observer informed."""

    def __init__(self, telemetry: Telemetry, clock: Clock, *, group: str) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._group = group
        self.on_step: Callable[[Progressed], None] | None = None
        self._began = clock.monotonic()
        self._step_seconds = 0.0
        self._tokens_trained = 0
        self._events = 0
        self._last_ts: float | None = None
        self._stale: StreamState | None = None
        """Learnt from since its gauges were set."""
        self._stream_shown_at = self._intake_shown_at = -math.inf
        self.newest_version = 0

    def began(
        self,
        *,
        epoch: int,
        newest_version: int,
        base: BaseModelCard,
        lora: LoraShape,
        newest_created_s: float | None = None,
    ) -> None:
        """The lineage is ours and the model is loaded.

        Args:
            newest_created_s: when the newest version was published, seconds since 1970, where that is known.
        """
        self._began = self._clock.monotonic()
        self.newest_version = newest_version
        self._telemetry.gauge("streamlearn_epoch", epoch)
        self._telemetry.gauge("streamlearn_version", newest_version)
        if newest_created_s is not None:
            self._telemetry.gauge("streamlearn_version_created_timestamp_seconds", newest_created_s)
        self._telemetry.info(
            "streamlearn_model_info",
            base=base.served_name,
            revision=base.revision or "",
            weights=base.weights_digest[:12],
            rank=str(lora.rank),
        )

    def committed(self, committed: Committed) -> None:
        """A checkpoint was committed, perhaps with a version; called in the publisher's thread."""
        if committed.version is not None:
            self.newest_version = committed.version

    def admitted(self, arrival: Arrival, outcome: Outcome, status: Callable[[], IntakeStatus] | None = None) -> None:
        """An event was passed for good.

        Args:
            status: asked now and then, so that lag is shown during a flood of events that bring no step.
        """
        self._events += 1
        self._telemetry.count("streamlearn_events_total", outcome=outcome.value)
        if arrival.skipped:
            self._telemetry.count("streamlearn_offsets_lost_total", arrival.skipped)
        # 0 is a record without a time stamp; what is no event has none that could be trusted.
        if outcome is not Outcome.DEAD_LETTER and arrival.ts > 0.0:
            self._last_ts = arrival.ts
        if status is not None and self._clock.monotonic() - self._intake_shown_at >= _REFRESH_S:
            self._show_intake(status())

    def learnt(
        self,
        batch: Batch,
        plan: StepPlan,
        result: StepResult,
        base_nll: Sequence[float],
        alarms: Sequence[Alarm],
        stream: StreamState,
        status: IntakeStatus,
    ) -> None:
        """A step was taken."""
        self._step_seconds += result.seconds
        self._count_step(batch, plan, result)
        for alarm in alarms:
            self._telemetry.count("streamlearn_drift_alarms_total", signal=alarm.signal)
        # At most once a step: it is a mean for every model and source.
        scores = stream.scores if self.on_step is not None else None
        self._stale = stream
        self._refresh(scores)
        if self._clock.monotonic() - self._intake_shown_at >= _REFRESH_S:
            self._show_intake(status)
        if self.on_step is not None and scores is not None:
            base = dict(zip(batch.sampled, base_nll, strict=True))
            seconds = max(self._clock.monotonic() - self._began, 1e-9)
            self.on_step(
                Progressed(
                    totals=stream.totals,
                    scores=scores,
                    tokens_per_s=self._tokens_trained / seconds,
                    step_tokens_per_s=self._tokens_trained / max(self._step_seconds, 1e-9),
                    lag_records=sum(status.lag_records.values()),
                    newest_version=self.newest_version,
                    window_chunks=len(stream.window),
                    nats=tuple(
                        (result.nll[i], base.get(i), item.chunk.scored_tokens) for i, item in enumerate(batch.fresh)
                    ),
                )
            )

    def ruled(self, ruling: Ruling) -> None:
        """A version was promoted, held, refused, kept or taken back."""
        self._telemetry.count("streamlearn_rulings_total", decision=ruling.decision.value)
        evidence = ruling.evidence
        (_log.warning if ruling.decision is Decision.ROLL_BACK else _log.info)(
            "a version was judged",
            decision=ruling.decision.value,
            version=evidence.subject,
            against=evidence.against or "the base",
            why=ruling.reason,
            champion=ruling.champion or "the base",
        )

    def judged(self, judgement: Judgement) -> None:
        """Show how the versions stand with one another."""
        say = self._telemetry
        say.gauge("streamlearn_champion_version", _number(judgement.champion))
        candidate = judgement.candidate
        say.gauge("streamlearn_candidate_version", 0 if candidate is None else _number(candidate.subject))
        if candidate is not None:
            say.gauge("streamlearn_candidate_blocks", candidate.blocks)
            say.gauge("streamlearn_candidate_gain_nats_per_token", candidate.mean)
            if candidate.bound is not None:
                say.gauge("streamlearn_candidate_gain_bound_nats_per_token", candidate.bound)
            if candidate.held_out_rise is not None:
                say.gauge("streamlearn_candidate_held_out_rise_nats_per_token", candidate.held_out_rise)
        watched = judgement.watched
        say.gauge("streamlearn_watch_gain_nats_per_token", 0.0 if watched is None else watched.mean)

    def idle(self, status: IntakeStatus) -> None:
        """The source had nothing."""
        self._show_intake(status)
        self._refresh()

    def finished(self, stream: StreamState) -> RunReport:
        """Return the summary of the run that ends now."""
        scores = stream.scores
        self._show_stream(stream, scores)
        return RunReport(
            seconds=self._clock.monotonic() - self._began,
            step_seconds=self._step_seconds,
            events=self._events,
            tokens_trained=self._tokens_trained,
            totals=stream.totals,
            scores=scores,
            newest_version=self.newest_version,
        )

    def _count_step(self, batch: Batch, plan: StepPlan, result: StepResult) -> None:
        by_role: Counter[str] = Counter()
        for draw in batch.draws:
            by_role[draw.role.value] += draw.chunk.scored_tokens
        for place in result.passed_over:
            by_role[batch.draws[place].role.value] -= batch.draws[place].chunk.scored_tokens
        trained = by_role.total()
        self._tokens_trained += trained
        say = self._telemetry
        say.count("streamlearn_steps_total")
        if not result.applied:
            say.count("streamlearn_steps_dropped_total")
        if result.scaled < 1.0:
            say.count("streamlearn_steps_clipped_total")
        for place in result.passed_over:
            chunk = batch.draws[place].chunk
            if (reason := plan.accepted.junk(result.nll[place], chunk.scored_tokens)) is not None:
                say.count("streamlearn_chunks_passed_over_total", reason=reason.value)
        say.observe("streamlearn_step_seconds", result.seconds)
        say.gauge("streamlearn_gradient_norm", result.gradient_norm)
        say.gauge("streamlearn_learning_rate", plan.learning_rate)
        say.gauge("streamlearn_tokens_per_second", trained / max(result.seconds, 1e-9))
        say.count("streamlearn_tokens_learnt_total", by_role[Role.FRESH.value])
        for role, tokens in by_role.items():
            say.count("streamlearn_tokens_trained_total", tokens, role=role)
        if (held := by_role[Role.ANCHOR.value]) > 0:
            pairs = zip(batch.draws, result.nll, strict=True)
            kl = sum(nats for draw, nats in pairs if draw.role is Role.ANCHOR)
            say.gauge("streamlearn_anchor_kl_nats_per_token", kl / held)

    def _refresh(self, scores: Scores | None = None) -> None:
        """Set the gauges of what was learnt, if they are old; `scores` spares computing them again."""
        if self._stale is not None and self._clock.monotonic() - self._stream_shown_at >= _REFRESH_S:
            self._show_stream(self._stale, scores or self._stale.scores)

    def _show_stream(self, stream: StreamState, scores: Scores) -> None:
        self._stream_shown_at, self._stale = self._clock.monotonic(), None
        say = self._telemetry
        say.gauge("streamlearn_window_chunks", len(stream.window))
        say.gauge("streamlearn_window_tokens", stream.window.tokens)
        say.gauge("streamlearn_window_effective_chunks", stream.window.effective_chunks())
        say.gauge("streamlearn_reservoir_chunks", len(stream.reservoir))
        say.gauge("streamlearn_learning_rate_factor", stream.vigilance.rate_factor)
        for model, score in (
            ("live", scores.live),
            ("base", scores.base),
            ("live_every_chunk", scores.live_every_chunk),
        ):
            if score is not None:
                for source, own in score.by_source.items():
                    self._show_score(model, source, own)
                # Last, so that a source of this name does not hide the whole.
                self._show_score(model, "all", score)
        if scores.live is not None and scores.base is not None:
            say.gauge("streamlearn_gain_nats_per_token", scores.base.nats_per_token - scores.live.nats_per_token)

    def _show_score(self, model: str, source: str, score: Score) -> None:
        say = self._telemetry
        say.gauge("streamlearn_nats_per_token", score.nats_per_token, model=model, source=source)
        say.gauge("streamlearn_bits_per_byte", score.bits_per_byte, model=model, source=source)
        for alpha, value in score.fading.items():
            say.gauge("streamlearn_nats_per_token_fading", value, model=model, source=source, alpha=alpha)
        for alpha, value in score.fading_bits_per_byte.items():
            say.gauge("streamlearn_bits_per_byte_fading", value, model=model, source=source, alpha=alpha)

    def _show_intake(self, status: IntakeStatus) -> None:
        self._intake_shown_at = self._clock.monotonic()
        say = self._telemetry
        for (topic, partition), lag in status.lag_records.items():
            say.gauge("kafka_consumergroup_lag", lag, consumergroup=self._group, topic=topic, partition=str(partition))
        known = status.assigned and bool(status.lag_records)
        if known and not any(status.lag_records.values()) and status.buffered_records == 0:
            # Nothing is waiting, however old the last event was: a replay of the past ends at 0 too.
            say.gauge("streamlearn_event_time_lag_seconds", 0.0)
        elif self._last_ts is not None:
            say.gauge("streamlearn_event_time_lag_seconds", max(self._clock.now() - self._last_ts, 0.0))


def _number(version: str | None) -> int:
    """Return a version's number; 0 is the base."""
    return 0 if version is None else version_number(version)
