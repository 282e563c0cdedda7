"""One record becomes one arrival: decode, clean, chunk.

Pure but for the tokenizer and the clock (`decode.py` says why). Whatever is
wrong with a record, the answer is an arrival that says so; whether that ends
the worker is `intake.py`'s.
"""

from __future__ import annotations

from streamlearn.config import Ingest
from streamlearn.core.events import Arrival, Chunk, Outcome, Record, Rejection
from streamlearn.core.near_duplicates import Signature
from streamlearn.core.near_duplicates import signature as signature_of
from streamlearn.ingest.clean import Cleaned, Cleaner
from streamlearn.ingest.decode import Decoded, Decoder
from streamlearn.ingest.rejecting import Rejected, shown
from streamlearn.ports import Chunker, Clock


class Refiner:
    """From records to arrivals, by the knobs of `[ingest]`."""

    def __init__(self, config: Ingest, chunker: Chunker, clock: Clock, *, near_duplicates: bool = False) -> None:
        self._near_duplicates = near_duplicates
        self._decoder = Decoder(config, clock)
        self._cleaner = Cleaner(min_chars=config.min_chars, max_chars=config.max_chars)
        self._chunker = chunker

    def refine(self, record: Record, *, skipped: int = 0) -> Arrival:
        """Return the record's arrival; `skipped` offsets before it were lost."""
        try:
            decoded = self._decoder.decode(record)
            cleaned = self._cleaner.clean(decoded.content)
            chunks = self._chunk(cleaned) if cleaned.enough else ()
        except Rejected as rejected:
            return _dead_letter(record, rejected.rejection, skipped)
        signature = signature_of(cleaned.learnt) if chunks and self._near_duplicates else None
        return _arrival(record, decoded, cleaned, chunks, signature, skipped)

    def _chunk(self, cleaned: Cleaned) -> tuple[Chunk, ...]:
        try:
            return self._chunker.chunk(cleaned.content)
        except ValueError as error:
            raise Rejected(
                "chunk", "Unchunkable", f"the model's tokenizer cannot take it: {shown(str(error))}; send plain text"
            ) from None


def _arrival(
    record: Record,
    decoded: Decoded,
    cleaned: Cleaned,
    chunks: tuple[Chunk, ...],
    signature: Signature | None,
    skipped: int,
) -> Arrival:
    return Arrival(
        id=decoded.id,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        ts=decoded.ts,
        source=decoded.source,
        outcome=Outcome.ADMITTED if chunks else Outcome.FILTERED,
        digest=cleaned.digest,
        signature=signature,
        chunks=chunks,
        skipped=skipped,
    )


def _dead_letter(record: Record, rejection: Rejection, skipped: int) -> Arrival:
    return Arrival(
        id=f"{record.topic}:{record.partition}:{record.offset}",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        ts=record.timestamp,
        source=record.topic,
        outcome=Outcome.DEAD_LETTER,
        rejection=rejection,
        record=record,
        skipped=skipped,
    )
