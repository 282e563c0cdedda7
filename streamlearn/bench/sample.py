"""What every arm reads: the same events, cut into the same chunks, in the same order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamlearn.config import Ingest
from streamlearn.core.events import Arrival, Chunk, Outcome, Plain, Record
from streamlearn.core.near_duplicates import NearDuplicates
from streamlearn.demo.rows import Rows, document
from streamlearn.ingest.refine import Refiner
from streamlearn.ports import Chunker, Clock

_PROBED = {"first tenth": 24, "early half": 32}
"""Chunks of the stream's past on which forgetting is measured; more would cost more than the arms."""
_SEED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A stretch of a stream."""

    name: str
    arrivals: tuple[Arrival, ...]
    """Events with something to learn, repeats left out."""

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks in stream order: what each arm returns one score for."""
        return tuple(chunk for arrival in self.arrivals for chunk in arrival.chunks)

    @property
    def sources(self) -> tuple[str, ...]:
        """The source of each chunk."""
        return tuple(arrival.source for arrival in self.arrivals for _ in arrival.chunks)

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return sum(chunk.scored_tokens for chunk in self.chunks)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that stand for every token of it."""
        digest = hashlib.sha256()
        for chunk in self.chunks:
            digest.update(chunk.ids.tobytes())
        return digest.hexdigest()[:16]

    def changes(self) -> tuple[int, ...]:
        """Return the numbers of the chunks, from 0, whose source is not that of the chunk before."""
        sources = self.sources
        return tuple(place for place in range(1, len(sources)) if sources[place] != sources[place - 1])

    def past(self, part: str) -> tuple[Chunk, ...]:
        """Return some chunks of the `first tenth` or the `early half`, the same every time."""
        share = {"first tenth": 0.1, "early half": 0.5}[part]
        cumulated = np.cumsum([chunk.scored_tokens for chunk in self.chunks])
        early = np.flatnonzero(cumulated <= share * cumulated[-1])
        random = np.random.default_rng(_SEED)
        picked = np.sort(random.permutation(early)[: _PROBED[part]])
        return tuple(self.chunks[place] for place in picked)


def read_sample(rows: Rows, chunker: Chunker, clock: Clock, *, max_tokens: int) -> Sample:
    """Return the events of `rows` up to `max_tokens` scored tokens, as the worker's own ingest reads them.

    Repeats and near repeats are left out for every arm; no event carries a signature by which one would do so again.

    Raises:
        ValueError: nothing of it can be learnt.
    """
    if (written := _written(rows, max_tokens)) is not None:
        return written
    ingest = Ingest.model_validate({"format": rows.format, "fields": rows.fields})
    refiner = Refiner(ingest, chunker, clock, near_duplicates=True)
    near = NearDuplicates(math.inf)
    taken: list[Arrival] = []
    tokens, seen = 0, set[bytes]()
    for offset, value in enumerate(rows.rows):
        record = Record(topic=rows.topic, partition=0, offset=offset, key=None, value=value, timestamp=0.0, headers=())
        arrival = refiner.refine(record)
        if arrival.outcome is not Outcome.ADMITTED or arrival.digest in seen:
            continue
        seen.add(arrival.digest)
        if near.repeats(arrival.signature, arrival.ts):
            continue
        taken.append(dataclasses.replace(arrival, signature=None))
        tokens += sum(chunk.scored_tokens for chunk in arrival.chunks)
        if tokens >= max_tokens:
            break
    if not taken:
        raise ValueError(f"{rows.title} holds no event that can be learnt; see `streamlearn check` for what one is")
    return Sample(name=rows.title, arrivals=tuple(taken))


def _written(rows: Rows, max_tokens: int) -> Sample | None:
    """Return the sample of a stream of tokens (`{"ids": […], "bytes": n}`), None where the rows are texts.

    What a model wrote is not what its tokenizer makes of the text of it; the control needs the very tokens.
    """
    first = document(rows.rows[0])
    if first is None or not isinstance(first.get("ids"), list):
        return None
    taken: list[Arrival] = []
    tokens = 0
    for offset, row in enumerate(rows.rows):
        told = json.loads(row)
        ids = np.array(told["ids"], dtype=np.int32)
        scored = np.ones(len(ids), dtype=np.bool_)
        scored[0] = False
        taken.append(
            Arrival(
                id=f"{rows.topic}:0:{offset}",
                topic=rows.topic,
                partition=0,
                offset=offset,
                ts=float(offset),
                source=rows.topic,
                outcome=Outcome.ADMITTED,
                digest=hashlib.sha256(ids.tobytes()).digest()[:16],
                chunks=(Chunk(ids=ids, scored=scored, text_bytes=int(told["bytes"])),),
            )
        )
        tokens += len(ids) - 1
        if tokens >= max_tokens:
            break
    return Sample(name=rows.title, arrivals=tuple(taken))


def held_out(file: Path, chunker: Chunker, *, chunks: int) -> tuple[Chunk, ...]:
    """Return `chunks` chunks of a JSONL file of texts that no arm learns from, the same every time."""
    texts = [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines() if line.strip()]
    cut = [chunk for text in texts for chunk in chunker.chunk(Plain(text=text))]
    random = np.random.default_rng(_SEED)
    return tuple(cut[place] for place in np.sort(random.permutation(len(cut))[:chunks]))


def tokens_of(chunks: Sequence[Chunk]) -> int:
    """Return the scored tokens of `chunks`."""
    return sum(chunk.scored_tokens for chunk in chunks)
