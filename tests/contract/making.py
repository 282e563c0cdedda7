"""Small checkpoints for the registry's tests: one event an offset, ten tokens each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from streamlearn.core.events import Outcome
from streamlearn.core.judgement import Decision, Evidence, Judgement, Ruling
from streamlearn.core.manifest import BaseModelCard, Draft, EventLine, LoraShape, Score, ScoreLine, Scores, Totals
from streamlearn.ports import Committed, Fault, Lineage, ObjectStore, no_fault
from streamlearn.registry.lineage import StoreLineage
from tests.fakes.daemon import DIGEST, ManualClock, SilentTelemetry

TTL_S = 30.0
ADAPTER_CONFIG = json.dumps({"r": 8, "peft_type": "LORA"}).encode()


class SkewedClock(ManualClock):
    """Runs with another clock, but its wall shows a time `skew_s` away."""

    def __init__(self, clock: ManualClock, skew_s: float) -> None:
        super().__init__()
        self._clock = clock
        self._skew_s = skew_s

    def now(self) -> float:
        return self._clock.now() + self._skew_s

    def monotonic(self) -> float:
        return self._clock.monotonic()


class Crash(Exception):
    """The process stops here."""


class CrashAt:
    """Stops the process the `nth` time that it comes to `point`."""

    def __init__(self, point: str, nth: int = 1) -> None:
        self.left = nth
        self.point = point

    def __call__(self, point: str, /) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                raise Crash(point)


def writer(
    store: ObjectStore,
    clock: ManualClock | None = None,
    *,
    owner: str = "first",
    fault: Fault = no_fault,
    telemetry: SilentTelemetry | None = None,
    wait: Callable[[float], object] | None = None,
) -> StoreLineage:
    """Return one process's view of lineage `news`; waiting moves its clock on."""
    ours = clock or ManualClock()

    def pass_time(seconds: float) -> None:
        ours.time += seconds

    return StoreLineage(
        store,
        "news",
        ttl_s=TTL_S,
        clock=ours,
        telemetry=telemetry or SilentTelemetry(),
        fault=fault,
        owner=owner,
        wait=wait or pass_time,
    )


def score(nats: float) -> Score:
    return Score(nats_per_token=nats, bits_per_byte=nats / 4, tokens=100)


def evidence(subject: str, against: str | None = None, *, mean: float = 0.08) -> Evidence:
    """Return what speaks for `subject`, by `mean` nats per token."""
    return Evidence(
        subject=subject,
        against=against,
        blocks=24,
        chunks=390,
        skipped=0,
        mean=mean,
        sd=0.1,
        bound=mean / 3,
        alpha=0.05,
        held_out_rise=0.002,
    )


def promoted(
    version: str, number: int = 1, *, over: str | None = None, chunk: int | None = None, mean: float = 0.08
) -> Ruling:
    """Return the ruling that makes `version` champion in the place of `over`."""
    return Ruling(
        decision=Decision.PROMOTE,
        reason=f"better by {mean} nats/token",
        evidence=evidence(version, over, mean=mean),
        number=number,
        chunk=chunk if chunk is not None else 100 * number,
        champion=version,
    )


def rolled_back(version: str, number: int = 2, *, to: str | None = None, chunk: int | None = None) -> Ruling:
    """Return the ruling that makes `to` champion again, and distrusts offsets 3 to 5."""
    return Ruling(
        decision=Decision.ROLL_BACK,
        reason="worse by 0.3 nats/token",
        evidence=evidence(version, to, mean=-0.3),
        number=number,
        chunk=chunk if chunk is not None else 100 * number,
        champion=to,
        distrusted={"news": {0: (3, 6)}},
    )


def judged(*rulings: Ruling, **others: Any) -> Judgement:
    """Return how things stand after `rulings`."""
    return Judgement(champion=rulings[-1].champion if rulings else None, rulings=rulings, **others)


MIDNIGHT = "2026-11-24T00:00:00.000+00:00"


def draft(events: int, note: str = "", judgement: Judgement | None = None, *, created_at: str = MIDNIGHT) -> Draft:
    """What the daemon knows after so many events of partition 0; `note` makes it another state."""
    return Draft(
        created_at=created_at,
        progress={"news": {0: events}},
        totals=Totals(events=events, admitted=events, tokens=10 * events, tokens_trained=12 * events, steps=events),
        scores=Scores(live=score(3.25), base=score(3.5)),
        event_time=(0.0, 60.0 * events),
        base=BaseModelCard(
            name="tiny",
            served_name="org/tiny",
            config_digest=DIGEST,
            weights_digest=DIGEST,
            tokenizer_digest=DIGEST,
            parameters=1,
        ),
        lora=LoraShape(rank=8, alpha=16.0, target_modules=("q",), parameters=2),
        config_digest=DIGEST,
        libraries={},
        judgement=judgement or Judgement(),
        stream={"note": note},
    )


def lines(offsets: Iterable[int]) -> list[EventLine | ScoreLine]:
    """Return an event and a score line for each offset."""
    found: list[EventLine | ScoreLine] = []
    for offset in offsets:
        place = f"news:0:{offset}"
        found.append(event(place, offset))
        found.append(ScoreLine(id=place, chunk=0, tokens=10, bytes=40, nll=32.5, nll_base=35.0))
    return found


def event(name: str, offset: int, outcome: Outcome = Outcome.ADMITTED, partition: int = 0) -> EventLine:
    return EventLine(id=name, topic="news", partition=partition, offset=offset, ts=60.0 * offset, outcome=outcome)


def files(events: int) -> dict[str, bytes]:
    """Return the objects of the checkpoint after so many events."""
    return {f"{name}.safetensors": f"{name} after {events}".encode() for name in ("adapter", "optimizer", "window")}


def commit(
    lineage: Lineage,
    first: int,
    last: int,
    *,
    publish: bool = False,
    note: str = "",
    judgement: Judgement | None = None,
    created_at: str = MIDNIGHT,
) -> Committed:
    """Commit a checkpoint that has learnt the offsets from `first` up to, not including, `last`."""
    return lineage.commit(
        draft(last, note, judgement, created_at=created_at),
        files(last),
        lines(range(first, last)),
        adapter_config=ADAPTER_CONFIG if publish else None,
        before_swap=lambda: None,
    )


def never() -> bool:
    """Do not stop."""
    return False
