"""One step of learning, whole: plan it, score, learn, write down what was found.

What the daemon does between two looks at the stream, and what a benchmark
does without any daemon: both learn by this one path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamlearn.core.batches import StepPlan, StepResult
from streamlearn.core.clipping import ClipSettings, GradientClip
from streamlearn.core.decay import HalfLife
from streamlearn.core.judgement import Alarm
from streamlearn.core.schedule import learning_rate
from streamlearn.core.stream import Batch, StreamState
from streamlearn.ports import Fatal, Learner

_MAX_DROPPED = 3
"""Steps in a row without finite loss and gradient after which going on would only burn the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonSettings:
    """The knobs of a step; see the configuration for their reasons."""

    learning_rate: float
    warmup_steps: int
    fade_half_life_s: float | None
    """Event time in which the adapter loses half of what no step renews; None for never."""
    clip: ClipSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one step planned and found."""

    plan: StepPlan
    result: StepResult
    base_nll: tuple[float, ...]
    """Summed nats of the frozen base for the batch's sampled chunks."""
    alarms: tuple[Alarm, ...]
    """Drift that this step noticed."""


class Lessons:
    """Teaches a learner what a stream brings."""

    def __init__(self, learner: Learner, stream: StreamState, settings: LessonSettings) -> None:
        self._learner = learner
        self._stream = stream
        self._settings = settings
        self._dropped_in_a_row = 0
        self._clip = GradientClip(settings.clip)
        self._faded_to: float | None = None
        """Event time up to which the adapter has faded, seconds since 1970."""

    def take(self, batch: Batch) -> Lesson:
        """Score every chunk of `batch`, then learn from it.

        Raises:
            Fatal: several steps in a row were not finite.
        """
        newest = max(item.ts for item in batch.fresh)
        plan = self._plan(newest)
        result = self._learner.step(batch.draws, plan)
        if plan.turn and result.applied and (reaction := self._stream.vigilance.reaction) is not None:
            # Before anything new is found, and not by a step that was dropped.
            reaction.take_moment_restart()
        sampled = [batch.fresh[place].chunk for place in batch.sampled]
        base_nll = tuple(float(nll) for nll in self._learner.base_nll(sampled)) if sampled else ()
        alarms = self._stream.record(batch, plan, result, base_nll)
        if result.applied:
            self._faded_to = newest if self._faded_to is None else max(newest, self._faded_to)
        self._dropped_in_a_row = 0 if result.applied else self._dropped_in_a_row + 1
        if self._dropped_in_a_row >= _MAX_DROPPED:
            raise Fatal(
                f"{_MAX_DROPPED} steps in a row had a loss or gradient that was not finite; the lineage stays at its "
                'last checkpoint: lower learner.learning_rate, or set model.dtype = "fp32"'
            )
        return Lesson(plan=plan, result=result, base_nll=base_nll, alarms=tuple(alarms))

    def document(self) -> dict[str, Any]:
        """Return the state of it all as JSON, but for the stream's and the learner's own."""
        return {
            "clip": self._clip.document(),
            "dropped_in_a_row": self._dropped_in_a_row,
            "faded_to": self._faded_to,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._clip.restore(document["clip"])
        self._dropped_in_a_row = int(document["dropped_in_a_row"])
        self._faded_to = None if document["faded_to"] is None else float(document["faded_to"])

    def _plan(self, newest: float) -> StepPlan:
        settings, reaction = self._settings, self._stream.vigilance.reaction
        rate = learning_rate(self._stream.totals.steps, rate=settings.learning_rate, warmup_steps=settings.warmup_steps)
        return StepPlan(
            learning_rate=rate * self._stream.vigilance.rate_factor,
            keep=self._kept(newest),
            accepted=self._stream.accepted,
            clip=self._clip.scale,
            turn=reaction is not None and reaction.moment_restart_due,
        )

    def _kept(self, newest: float) -> float:
        """Return what is left of the adapter when event time goes on to `newest`."""
        # Time that has passed is counted here: the window does not see the chunks that are not learnt.
        if self._settings.fade_half_life_s is None or self._faded_to is None:
            return 1.0
        passed_s = max(newest - self._faded_to, 0.0)
        return HalfLife(seconds=self._settings.fade_half_life_s).weight(passed_s)
