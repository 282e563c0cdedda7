"""A lineage of two versions in a directory, made by the registry itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from streamlearn.core.events import Outcome
from streamlearn.core.manifest import (
    BaseModelCard,
    Draft,
    EventLine,
    LoraShape,
    Score,
    ScoreLine,
    Scores,
    Totals,
)
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.lineage import StoreLineage
from tests.fakes.daemon import DIGEST, ManualClock, SilentTelemetry

EVENTS_EACH = 3


def score(nats: float) -> Score:
    return Score(nats_per_token=nats, bits_per_byte=nats / 4, tokens=100)


def draft(events: int) -> Draft:
    return Draft(
        created_at="2026-11-24T00:00:00.000+00:00",
        progress={"news": {0: events}},
        totals=Totals(events=events, admitted=events, tokens=10 * events, tokens_trained=12 * events, steps=events),
        scores=Scores(live=score(3.25), base=score(3.5)),
        event_time=(0.0, 60.0 * events),
        base=BaseModelCard(
            name="tiny",
            served_name="org/tiny",
            revision="main",
            config_digest=DIGEST,
            weights_digest=DIGEST,
            tokenizer_digest=DIGEST,
            parameters=1,
        ),
        lora=LoraShape(rank=8, alpha=16.0, target_modules=("q",), parameters=2),
        config_digest=DIGEST,
        libraries={},
        stream={},
    )


def lines(first: int, last: int) -> list[EventLine | ScoreLine]:
    found: list[EventLine | ScoreLine] = []
    for offset in range(first, last):
        place = f"news:0:{offset}"
        found.append(
            EventLine(
                id=place,
                topic="news",
                partition=0,
                offset=offset,
                ts=60.0 * offset,
                outcome=Outcome.ADMITTED,
                chunks=1,
                tokens=10,
                bytes=40,
            )
        )
        found.append(ScoreLine(id=place, chunk=0, tokens=10, bytes=40, nll=32.5, nll_base=35.0))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with lineage `news`: v000001 knows offsets 0-2, v000002 knows 0-5, offset 6 is in no version yet."""
    root = tmp_path / "store"
    lineage = StoreLineage(
        DirectoryStore(root), "news", ttl_s=30.0, clock=ManualClock(), telemetry=SilentTelemetry(), owner="test"
    )
    lineage.acquire(lambda: False)
    for end, publish in ((EVENTS_EACH, True), (2 * EVENTS_EACH, True), (2 * EVENTS_EACH + 1, False)):
        lineage.commit(
            draft(end),
            dict.fromkeys(("adapter.safetensors", "optimizer.safetensors", "window.safetensors"), b"{}"),
            lines(max(end - EVENTS_EACH, 0) if publish else end - 1, end),
            adapter_config=json.dumps({"r": 8}).encode() if publish else None,
            before_swap=lambda: None,
        )
    lineage.release()
    return root


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A verb configures logging for the process that it usually has to itself."""
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("streamlearn").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("streamlearn").setLevel(ours)
    logging.captureWarnings(False)
    structlog.reset_defaults()
