"""The worker's own learning, without the worker: no Kafka, no store, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.events import Arrival, Chunk, Outcome
from streamlearn.core.stream import StreamState
from streamlearn.learner.step import LoraLearner
from streamlearn.lessons import Lessons, LessonSettings


class Streamlearn:
    """Admits, scores and learns exactly as the daemon does."""

    def __init__(self, learner: LoraLearner, stream: StreamState, settings: LessonSettings) -> None:
        self._learner = learner
        self._stream = stream
        self._lessons = Lessons(learner, stream, settings)
        self._number = 0
        self._waiting: deque[int] = deque()
        """Numbers of the chunks, from 0, that were admitted and not learnt yet."""
        self._remarks: dict[str, list[Any]] = {"alarms": [], "passed_over": [], "refused": []}

    def scores(self, arrivals: Sequence[Arrival]) -> Iterator[float]:
        """Yield each chunk's score in stream order, found in the step that then learns from it.

        What is not admitted (a source above its share) is scored as it comes and not learnt.
        """
        found: deque[float | None] = deque()
        for arrival in arrivals:
            numbers = range(self._number, self._number + len(arrival.chunks))
            self._number = numbers.stop
            if self._stream.admit(arrival) is Outcome.ADMITTED:
                self._waiting.extend(numbers)
                found.extend(None for _ in arrival.chunks)
            else:
                self._remarks["refused"].extend(numbers)
                found.extend(self._learner.live_nll(arrival.chunks).tolist())
            self._learn(found, flush=False)
            yield from _known(found)
        self._learn(found, flush=True)
        yield from _known(found)

    def _learn(self, found: deque[float | None], *, flush: bool) -> None:
        """Take the steps that are due, and put their scores where they are awaited, oldest first."""
        while (batch := self._stream.next_batch(flush=flush)) is not None:
            lesson = self._lessons.take(batch)
            nll = lesson.result.nll
            numbers = [self._waiting.popleft() for _ in batch.fresh]
            self._remarks["passed_over"].extend(numbers[place] for place in lesson.result.passed_over)
            self._remarks["alarms"].extend(alarm.model_dump(mode="json") for alarm in lesson.alarms)
            awaited = [place for place, score in enumerate(found) if score is None]
            for place, score in zip(awaited, nll[: len(batch.fresh)], strict=False):
                found[place] = score

    def remarks(self) -> dict[str, list[Any]]:
        """Return what there is to say beside the scores.

        `alarms` of drift; the numbers, from 0, of the chunks that were scored and not learnt: `passed_over` as junk,
        `refused` at admission.
        """
        return self._remarks

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return each chunk's score under the weights that would be published, shape (B,)."""
        return self._learner.served_nll(chunks)


def _known(found: deque[float | None]) -> Iterator[float]:
    """Yield the scores at the front, up to the first that is still awaited."""
    while found and (score := found[0]) is not None:
        found.popleft()
        yield score
