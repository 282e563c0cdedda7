"""Variants of learning on one stream: runs them, and remembers what the frozen base scored.

The base never changes, so its scores of a sample are kept in the user's cache,
by the sample's tokens, the model's weights and what was asked besides.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.experiment import Ask
from benchmarks.learning.small import pools, small_settings
from streamlearn.bench.make import World, opened
from streamlearn.bench.measures import ArmResult
from streamlearn.bench.run import PROBED_AT, Told, Wishes, held_out_chunks, run_arm, run_here
from streamlearn.bench.sample import Sample
from streamlearn.demo import streams
from streamlearn.demo.rows import BUNDLED, Part
from streamlearn.demo.streams import Event

FROZEN, OURS = "frozen", "streamlearn"
TOKENS_AN_EVENT = 228
"""Of the bundled release notes, under SmolLM2's tokenizer."""
SMALL_TOKENS_AN_EVENT = 25
"""Of the made-up text of fast runs, under the tiny model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to learn."""

    label: str
    arm: str = OURS
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sections of a configuration, beyond those of the call."""


def wishes(ask: Ask, stream: str | Path, seed: int, *, part: Part = "all", **more: Any) -> Wishes:
    """Return what is wished for a run on `stream`; `more` are fields of `Wishes`."""
    settings = merged(small_settings(ask.folder), ask.settings) if ask.fast else ask.settings
    return Wishes(
        stream=str(stream),
        model=ask.model,
        max_tokens=more.pop("max_tokens", ask.max_tokens),
        part=part,
        seed=seed,
        settings=merged(settings, more.pop("settings", {})),
        **more,
    )


def merged(*settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return sections laid over one another, the last one on top."""
    found: dict[str, dict[str, Any]] = {}
    for each in settings:
        for section, values in each.items():
            found.setdefault(section, {}).update(values)
    return found


def dated_stream(ask: Ask) -> tuple[str, Part]:
    """Return the stream in which real time passes, and which part of it experiments read."""
    if not ask.fast:
        return BUNDLED, "second-half"
    events = streams.stationary(events=events_for(ask), seed=ask.seed, pools=pools())
    return str(written(ask, "dated", events)), "all"


def events_for(ask: Ask) -> int:
    """Return about how many events hold the tokens of the call."""
    return max(ask.max_tokens // (SMALL_TOKENS_AN_EVENT if ask.fast else TOKENS_AN_EVENT), 4)


def written(ask: Ask, name: str, events: Iterable[Event]) -> Path:
    """Write a stream to the call's folder and return its file."""
    file = ask.folder / f"{name}.jsonl"
    streams.write(file, events)
    return file


def sample_of(wished: Wishes) -> Sample:
    """Return the chunks that every arm reads."""
    return _world(wished).sample


def run(ask: Ask, variants: Sequence[Variant], wished: Wishes) -> dict[str, ArmResult]:
    """Run `variants` one after another and return what each did, by its label."""
    found = {}
    for variant in variants:
        settings = merged(wished.settings, variant.settings)
        result = run_one(ask, variant.arm, dataclasses.replace(wished, settings=settings), ask.told, variant.label)
        found[variant.label] = dataclasses.replace(result, arm=variant.label)
    return found


def run_one(ask: Ask, arm: str, wished: Wishes, told: Told, label: str | None = None) -> ArmResult:
    """Run one arm; the frozen base's answer comes from the cache where it was asked before."""

    def tell(what: str, done: int, total: int) -> None:
        told(what.replace(arm, label or arm, 1), done, total)

    runner = run_here if ask.fast else run_arm
    if ask.fast or arm != FROZEN:
        return runner(arm, wished, tell)
    file = _cached(_world(wished), wished)
    if (known := _read(file)) is not None:
        return known
    result = runner(arm, wished, tell)
    _keep(file, result)
    return result


def tokens_in(sample: Sample) -> NDArray[np.float64]:
    """Return the scored tokens of each chunk, shape (C,)."""
    return np.array([chunk.scored_tokens for chunk in sample.chunks], dtype=np.float64)


def mean(sample: Sample, nll: NDArray[np.float64], places: NDArray[Any] | slice = slice(None)) -> float:
    """Return nats per token over the chunks at `places`."""
    return float(nll[places].sum() / tokens_in(sample)[places].sum())


def _world(wished: Wishes) -> World:
    return opened(FROZEN, wished)


def _cached(world: World, wished: Wishes) -> Path:
    base = world.loaded.base
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "streamlearn")]
    held_out = [chunk.ids.tolist() for chunk in held_out_chunks(world.chunker)]
    asked = [held_out, PROBED_AT, wished.at_changes, wished.asked]
    known_by = [world.sample.digest, base.weights_digest, base.dtype, asked, versions]
    digest = hashlib.sha256(json.dumps(known_by, sort_keys=True, default=dict).encode()).hexdigest()[:16]
    return cache() / f"frozen-{digest}.json"


def cache() -> Path:
    """Return where experiments keep what is worth keeping."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "streamlearn" / "bench"


def _read(file: Path) -> ArmResult | None:
    try:
        found = json.loads(file.read_text())
        return ArmResult(**found | {"nll": np.array(found["nll"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path, result: ArmResult) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {each.name: getattr(result, each.name) for each in dataclasses.fields(result)} | {"nll": result.nll.tolist()}
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as out:
        json.dump(kept, out)
    Path(out.name).replace(file)
