"""Which version is champion: who is compared with whom, and what a verdict leads to.

Scores champion, candidate and the champion before on the same sampled chunks,
lets the gate and the watch decide, and carries out for learner and stream
what they decided. Aliases are moved by the registry, once the checkpoint that
tells of a ruling is committed; so a crash in between loses nothing, and a
ruling that was never committed was never made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from streamlearn.core.blocks import BLOCK_CHUNKS
from streamlearn.core.events import Chunk, Progress
from streamlearn.core.gate import Gate, GateSettings
from streamlearn.core.judgement import Decision, Judgement, Ruling, Verdict
from streamlearn.core.manifest import version_name, version_number
from streamlearn.core.stream import Batch, StreamState
from streamlearn.core.watch import Watch, WatchSettings
from streamlearn.lessons import Lesson
from streamlearn.ports import Fatal, Guests, Learner, Lineage, NotFound

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    progress: Progress
    chunks_learnt: int


_NOTHING_SEEN = _Standing(progress={}, chunks_learnt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """When versions change places; see the configuration for the reasons."""

    gate: GateSettings | None
    """None: nothing is compared, and nobody is promoted."""
    watch: WatchSettings


class Judge:
    """Compares the versions of one lineage."""

    def __init__(
        self,
        *,
        learner: Learner,
        guests: Guests,
        stream: StreamState,
        lineage: Lineage,
        held_out: Sequence[Chunk],
        settings: JudgeSettings,
        on_ruling: Callable[[Ruling], None] = lambda _: None,
    ) -> None:
        self._learner = learner
        self._guests = guests
        self._stream = stream
        self._lineage = lineage
        self._held_out = held_out
        self._on_ruling = on_ruling
        self._gate = Gate(settings.gate) if settings.gate is not None else None
        self._watch = Watch(settings.watch)
        self._champion: str | None = None
        self._seated: set[str] = set()
        self._stood: dict[str, _Standing] = {}
        """Where the stream stood when those were published who may be taken back, or come back."""
        self._base_held_out: float | None = None
        """Summed nats of the base on the held-out text; not kept, as the text or the number format may be others in
        the next life."""
        self._rulings: list[Ruling] = []
        """Since the newest version."""
        self._ruled = 0
        """Rulings over the life of the lineage."""
        self._committed = 0
        """Of these, handed over in a checkpoint."""
        self._in_block = 0
        """Sampled chunks of the block that is open, whoever is compared."""

    # --- what happens to the stream and the lineage ------------------------------

    def published(self, adapter: bytes) -> None:
        """Take the version that is being made as the candidate, where none is being compared.

        Args:
            adapter: what is published; on the store it comes to lie only with the checkpoint under way.
        """
        if self._gate is None or self._gate.candidate is not None:
            return
        name = version_name(self._lineage.next_version)
        self._stood[name] = _Standing(
            progress={topic: dict(offsets) for topic, offsets in self._stream.progress.items()},
            chunks_learnt=self._stream.totals.chunks_learnt,
        )
        self._seat(name, adapter)
        verdict = self._gate.consider(name, champion=self._champion, held_out_rise=self._rise(name))
        if verdict is not None:
            self._rule(verdict)
        self._unseat_others()

    def observe(self, batch: Batch, lesson: Lesson) -> Ruling | None:
        """Score the champion and those beside it on what the base was scored on; return what was ruled, if anything.

        Published versions learn no more, so what they make of a chunk is the same before and after the step.
        Junk is no witness.
        """
        places = [
            (place, base)
            for place, base in zip(batch.sampled, lesson.base_nll, strict=True)
            if place not in lesson.result.passed_over
        ]
        if self._gate is None:
            return None
        if lesson.alarms and self._stream.vigilance.reaction is not None:
            self._gate.restart()
        if not places:
            return None
        chunks = [batch.fresh[place].chunk for place, _ in places]
        scores = self._scores(chunks, np.array([base for _, base in places]))
        for index, chunk in enumerate(chunks):
            self._tick()
            if (verdict := self._witness(scores, index, chunk.scored_tokens)) is not None:
                # Who is compared with whom has changed; the rest of the step bears witness to nothing.
                return self._rule(verdict)
        return None

    @property
    def judgement(self) -> Judgement:
        """How things stand, as checkpoints and manifests tell it."""
        return Judgement(
            champion=self._champion,
            candidate=self._gate.evidence() if self._gate is not None else None,
            watched=self._watch.evidence(),
            rulings=tuple(self._rulings),
            alarms=tuple(self._stream.vigilance.alarms),
        )

    @property
    def urgent(self) -> bool:
        """Whether a champion is waiting for a checkpoint to make its promotion, or its fall, known."""
        return any(ruling.moves and ruling.number > self._committed for ruling in self._rulings)

    def handed_over(self, *, published: bool) -> None:
        """A checkpoint with all rulings is on its way, perhaps as a version; the next version tells only later ones."""
        self._committed = self._ruled
        if published:
            self._rulings = []

    # --- to a checkpoint and back ---------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Return as JSON what `judgement` does not tell."""
        return {
            "gate": self._gate.document() if self._gate is not None else None,
            "watch": self._watch.document(),
            "ruled": self._ruled,
            "stood": {name: asdict(stood) for name, stood in self._stood.items()},
            "in_block": self._in_block,
        }

    def restore(self, document: Mapping[str, Any], judgement: Judgement, *, published: bool) -> None:
        """Continue from a checkpoint.

        Args:
            published: it was one with a version, which has told its rulings.
        """
        self._champion = judgement.champion
        self._rulings = [] if published else list(judgement.rulings)
        self._ruled = self._committed = int(document["ruled"])
        self._in_block = int(document["in_block"])
        self._stood = {name: _standing(stood) for name, stood in document["stood"].items()}
        self._watch.restore(document["watch"])
        if self._gate is None:
            self._watch.end()
        elif document["gate"] is not None:
            self._gate.restore(document["gate"])
        for name in sorted(self._needed()):
            self._seat_from_store(name)

    # --- inside -----------------------------------------------------------------------

    def _witness(self, scores: Mapping[str | None, NDArray[np.float64]], index: int, tokens: int) -> Verdict | None:
        """Let the watch and the gate hear one chunk; a champion that falls is heard of before one that would follow."""
        assert self._gate is not None, "only a gate has witnesses"
        if (watched := self._watch.evidence()) is not None and self._watch.champion is not None:
            pair = scores[watched.against][index], scores[watched.subject][index]
            if (verdict := self._watch.observe(float(pair[0]), float(pair[1]), tokens)) is not None:
                return verdict
        if (candidate := self._gate.candidate) is not None:
            champion, newer = float(scores[self._champion][index]), float(scores[candidate][index])
            return self._gate.observe(champion, newer, tokens, may_promote=self._may_promote())
        return None

    def _rule(self, verdict: Verdict) -> Ruling:
        """Make a verdict stand, with what follows from it."""
        before = self._champion
        distrusted: dict[str, dict[int, tuple[int, int]]] = {}
        match verdict.decision:
            case Decision.PROMOTE:
                self._champion = verdict.evidence.subject
                self._watch.begin(self._champion, previous=before)
            case Decision.ROLL_BACK:
                self._champion = verdict.evidence.against
                distrusted = self._take_back(verdict.evidence.subject, verdict.evidence.against)
        self._ruled += 1
        ruling = Ruling(
            **{name: getattr(verdict, name) for name in Verdict.model_fields},
            number=self._ruled,
            chunk=self._stream.totals.chunks_learnt,
            champion=self._champion,
            distrusted=distrusted,
        )
        self._rulings.append(ruling)
        self._on_ruling(ruling)
        self._unseat_others()
        return ruling

    def _take_back(self, fallen: str, earlier: str | None) -> dict[str, dict[int, tuple[int, int]]]:
        """Set the learner back to `earlier`, and draw no more on what only `fallen` had seen; return its offsets."""
        assert self._gate is not None, "only a gate promotes"
        self._gate.withdraw()
        to, since = self._stood[fallen], _NOTHING_SEEN
        if earlier is None:
            self._learner.begin_anew()
        else:
            since = self._stood[earlier]
            try:
                files = self._lineage.learner_files(version_number(earlier))
            except (NotFound, Fatal) as loss:
                raise Fatal(
                    f"version {fallen} has turned out worse, and {earlier} cannot be gone back to: {loss}. Restore it "
                    "from a backup of the bucket, or set gate.enabled = false, and serve another version until then"
                ) from loss
            self._learner.restore(files)
        self._stream.distrust(since.chunks_learnt, to.chunks_learnt)
        self._stream.vigilance.set_back()
        return _between(since.progress, to.progress)

    def _tick(self) -> None:
        """Count blocks whether or not there is a candidate: so long nobody is promoted after an alarm."""
        self._in_block = (self._in_block + 1) % BLOCK_CHUNKS
        if self._in_block == 0 and (reaction := self._stream.vigilance.reaction) is not None:
            reaction.block_passed()

    def _may_promote(self) -> bool:
        reaction = self._stream.vigilance.reaction
        return reaction is None or reaction.may_promote

    def _scores(self, chunks: Sequence[Chunk], base: NDArray[np.float64]) -> dict[str | None, NDArray[np.float64]]:
        """Return {version: summed nats of each chunk} of everyone who is compared; None is the base."""
        return {None: base} | {name: self._guests.guest_nll(name, chunks) for name in sorted(self._needed())}

    def _rise(self, name: str) -> float | None:
        """Return what a version costs on held-out text above the base, nats per token; None without such text."""
        if not self._held_out:
            return None
        if self._base_held_out is None:
            self._base_held_out = float(self._learner.base_nll(self._held_out).sum())
        nll = float(self._guests.guest_nll(name, self._held_out).sum())
        return (nll - self._base_held_out) / sum(chunk.scored_tokens for chunk in self._held_out)

    def _needed(self) -> set[str]:
        """Who is compared now, the base left out; a champion beside whom nobody stands is not."""
        names: set[str | None] = set()
        if (watched := self._watch.evidence()) is not None:
            names |= {watched.subject, watched.against}
        if self._gate is not None and self._gate.candidate is not None:
            names |= {self._gate.candidate, self._champion}
        return {name for name in names if name is not None}

    def _seat(self, name: str, adapter: bytes) -> None:
        self._guests.seat(name, adapter)
        self._seated.add(name)

    def _unseat_others(self) -> None:
        """Give back the memory of those who are compared no more, and fetch who is again."""
        needed = self._needed()
        self._stood = {name: stood for name, stood in self._stood.items() if name in needed | {self._champion}}
        for name in sorted(self._seated - needed):
            self._guests.leave(name)
        self._seated &= needed
        for name in sorted(needed - self._seated):
            self._seat_from_store(name)

    def _seat_from_store(self, name: str) -> None:
        """Seat a published version; where the store has lost it, nothing can be compared with it any more."""
        try:
            self._seat(name, self._lineage.adapter(version_number(name)))
        except (NotFound, Fatal) as loss:
            raise Fatal(
                f"version {name} is compared with others, and cannot be read: {loss}. Restore it from a backup of the "
                "bucket, or set gate.enabled = false to learn without comparing"
            ) from loss


def _standing(document: Mapping[str, Any]) -> _Standing:
    return _Standing(
        # Keys of JSON are texts.
        progress={
            topic: {int(partition): int(offset) for partition, offset in offsets.items()}
            for topic, offsets in document["progress"].items()
        },
        chunks_learnt=int(document["chunks_learnt"]),
    )


def _between(since: Progress, to: Progress) -> dict[str, dict[int, tuple[int, int]]]:
    """Return the offsets of `to` that are not of `since`, as {topic: {partition: (first, behind the last)}}."""
    spans = {
        topic: {
            partition: (since.get(topic, {}).get(partition, 0), behind)
            for partition, behind in sorted(offsets.items())
            if behind > since.get(topic, {}).get(partition, 0)
        }
        for topic, offsets in sorted(to.items())
    }
    return {topic: found for topic, found in spans.items() if found}
