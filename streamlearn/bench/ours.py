"""The worker's own learning, without the worker: no Kafka, no store, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

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

    def scores(self, arrivals: Sequence[Arrival]) -> Iterator[float]:
        """Yield each chunk's score in stream order, found in the step that then learns from it.

        What is not admitted (a source above its share) is scored as it comes and not learnt.
        """
        found: deque[float | None] = deque()
        for arrival in arrivals:
            if self._stream.admit(arrival) is Outcome.ADMITTED:
                found.extend(None for _ in arrival.chunks)
            else:
                found.extend(self._learner.live_nll(arrival.chunks).tolist())
            self._learn(found, flush=False)
            yield from _known(found)
        self._learn(found, flush=True)
        yield from _known(found)

    def _learn(self, found: deque[float | None], *, flush: bool) -> None:
        """Take the steps that are due, and put their scores where they are awaited, oldest first."""
        while (batch := self._stream.next_batch(flush=flush)) is not None:
            nll = self._lessons.take(batch).result.nll
            awaited = [place for place, score in enumerate(found) if score is None]
            for place, score in zip(awaited, nll[: len(batch.fresh)], strict=False):
                found[place] = score

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return each chunk's score under the weights that would be published, shape (B,)."""
        return self._learner.served_nll(chunks)


def _known(found: deque[float | None]) -> Iterator[float]:
    """Yield the scores at the front, up to the first that is still awaited."""
    while found and (score := found[0]) is not None:
        found.popleft()
        yield score
