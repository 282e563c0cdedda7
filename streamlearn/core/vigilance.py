"""What the losses of fresh chunks tell beside the score: junk, drift, and what follows from either.

Watches the losses in stream order and keeps the state of the reaction. Knows
neither text nor weights; that a step is taken otherwise is the step's affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamlearn.core.drift import DriftSettings, DriftWatch
from streamlearn.core.judgement import Alarm
from streamlearn.core.junk import EVERYTHING, Accepted, Junk, JunkFilter, JunkSettings
from streamlearn.core.proof import Proof, ProofSettings
from streamlearn.core.reaction import Reaction, ReactionSettings

_ALARMS_KEPT = 20
"""Latest alarms that a manifest names; the ledger of scores tells of all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VigilanceSettings:
    """What is watched; None is not."""

    junk: JunkSettings | None
    drift: DriftSettings | None
    reaction: ReactionSettings | None
    """None: alarms are told, and change nothing."""
    proof: ProofSettings | None = None
    """None: the rate is full whether or not learning helps."""


class Vigilance:
    """Judges fresh chunks by their losses before learning."""

    def __init__(self, settings: VigilanceSettings) -> None:
        self._junk = JunkFilter(settings.junk) if settings.junk is not None else None
        self._drift = DriftWatch(settings.drift) if settings.drift is not None else None
        self.reaction = Reaction(settings.reaction) if settings.reaction is not None else None
        self._proof = Proof(settings.proof) if settings.proof is not None else None
        self.alarms: list[Alarm] = []
        """The latest ones, oldest first."""

    @property
    def accepted(self) -> Accepted:
        """What the next step should learn from."""
        return self._junk.accepted if self._junk is not None else EVERYTHING

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rate: what has been proved, and what an alarm asks for."""
        proved = 1.0 if self._proof is None else self._proof.rate_factor
        return proved * (1.0 if self.reaction is None else self.reaction.rate_factor)

    @property
    def junk(self) -> Mapping[Junk, int]:
        """Chunks that were scored and not learnt, over the life of the lineage."""
        return self._junk.counts if self._junk is not None else {}

    def observe(self, number: int, nll: float, base: float | None, tokens: int, accepted: Accepted) -> Alarm | None:
        """Take in one fresh chunk; return an alarm where one is due.

        Args:
            number: which fresh chunk of the lineage it is, from 0.
            nll: summed nats of the live model before it learnt the chunk.
            base: the same of the base where it was asked.
            tokens: scored tokens.
            accepted: what the step that read it went by.
        """
        if self._junk is not None:
            self._junk.observe(nll, tokens, accepted)
        if self._proof is not None:
            self._proof.observe(nll, base, tokens)
        alarm = None
        if self._drift is not None and tokens > 0 and math.isfinite(nll):
            # Junk counts: a stream that turns into junk has changed.
            alarm = self._drift.observe(nll / tokens, None if base is None else base / tokens)
        if alarm is not None:
            # The watch counts what it was shown: not what had no finite loss, nor what came before it was begun.
            cut = max(number - (alarm.chunk - alarm.cut), 0)
            alarm = alarm.model_copy(update={"chunk": number, "cut": cut})
        if self.reaction is not None:
            self.reaction.chunk_passed()
            if alarm is not None:
                self.reaction.alarm(alarm)
        if alarm is not None:
            self.alarms = [*self.alarms, alarm][-_ALARMS_KEPT:]
        return alarm

    def set_back(self) -> None:
        """The live model was replaced: its losses from before are no measure of those to come."""
        if self._junk is not None:
            self._junk.begin_anew()
        if self._drift is not None:
            self._drift.begin_live_anew()
        if self._proof is not None:
            self._proof.begin_anew()

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON; what is not watched is absent."""
        parts = {"junk": self._junk, "drift": self._drift, "reaction": self.reaction, "proof": self._proof}
        found = {name: part.document() for name, part in parts.items() if part is not None}
        return found | {"alarms": [alarm.model_dump(mode="json") for alarm in self.alarms]}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`; what was not watched then begins now."""
        parts = {"junk": self._junk, "drift": self._drift, "reaction": self.reaction, "proof": self._proof}
        for name, part in parts.items():
            if part is not None and name in document:
                part.restore(document[name])
        self.alarms = [Alarm(**alarm) for alarm in document["alarms"]]
