"""Gain on the stream against loss on held-out text: one point a variant, of earlier runs or of a grid run now."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.points import Point, drawn, front, knee
from benchmarks.learning.runs import FROZEN, OURS, Variant, dated_stream, run, sample_of, wishes
from streamlearn.cli.bench import settings_of

_GRID = ("learner.learning_rate=1e-3,2e-3,4e-3", "anchor.weight=6,12,24")
_GRID_FAST = ("learner.learning_rate=1e-3,1e-2",)
_SHORT = {"learner.learning_rate": "rate", "learner.step_chunks": "chunks a step", "lora.rank": "rank"}
_RIVAL = "streamlearn-without-anything@4e-3"


def frontier(ask: Ask) -> Outcome:
    """Gather points, and draw them.

    Raises:
        ValueError: a file holds no such document, or they are of different streams.
    """
    documents = list(_read(ask.files)) if ask.files else [*_grid_run(ask)]
    if len(of := {(each["stream"], each["tokens"]) for each in documents}) > 1:
        told = "; ".join(sorted(f"{tokens:,} tokens of {stream}" for stream, tokens in of))
        raise ValueError(f"these runs are not of one stream and cannot share a picture: {told}")
    points = _points(documents)
    best = knee([point for point in points if not point.rival] or points)
    edge = {point.label for point in front(points)}
    shown = table(
        f"{documents[0]['tokens']:,} tokens of {documents[0]['stream']}",
        ["variant", "gain over frozen", "loss on held-out text", "seeds", ""],
        [
            [
                point.label, f"{point.gain:+.3f}", f"{point.loss:+.3f}", str(point.seeds),
                "knee" if point.label == best.label else "front" if point.label in edge else "",
            ]
            for point in sorted(points, key=lambda point: -point.gain)
        ],
    )  # fmt: skip
    figures = {
        "points": [point.document() | {"on_the_front": point.label in edge} for point in points],
        "knee": best.label,
    }
    return Outcome(
        stream=documents[0]["stream"],
        tokens=documents[0]["tokens"],
        figures=figures,
        table=shown,
        draw=lambda path: drawn(points, path, f"{documents[0]['tokens']:,} tokens of {documents[0]['stream']}"),
    )


def _read(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the comparisons in files of `streamlearn bench learn --json`, or of these experiments."""
    for file in files:
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {file}: {error}") from None
        for each in _comparisons(found):
            arms = each.get("arms") if isinstance(each, dict) else None
            if not arms or FROZEN not in [row.get("arm") for row in arms]:
                raise ValueError(f"{file} is no comparison: write it with `streamlearn bench learn --json`")
            yield each | {"file": file.stem}


def _comparisons(found: Any) -> list[Any]:
    """Return the comparisons in a document: itself, or one for each seed of an experiment."""
    figures = found.get("figures") if isinstance(found, dict) else None
    return figures.get("by_seed") or [None] if isinstance(figures, dict) else [found]


def _grid_run(ask: Ask) -> Iterator[dict[str, Any]]:
    """Run every combination of the grid, and yield a comparison for each."""
    stream, part = dated_stream(ask)
    variants = [
        Variant(label=FROZEN, arm=FROZEN),
        Variant(label=_RIVAL, arm=_RIVAL),
        *(
            Variant(label=_said(settings), settings=settings)
            for settings in _combinations(ask.grid or (_GRID_FAST if ask.fast else _GRID))
        ),
    ]
    for seed in ask.seeds:
        wished = wishes(ask, stream, seed, part=part)
        sample, found = sample_of(wished), run(ask, variants, wished)
        base = found[FROZEN].probes["held-out"][-1]
        rows = {
            label: {
                "arm": variant.arm,
                "nats_per_token": float(found[label].nll.sum() / sample.tokens),
                "anchor_loss": found[label].probes["held-out"][-1] - base,
            }
            for label, variant in ((variant.label, variant) for variant in variants)
        }
        for variant in variants[1:]:
            yield {
                "stream": sample.name, "tokens": sample.tokens, "seed": seed, "settings": variant.settings,
                "arms": [rows[FROZEN], rows[variant.label]],
            }  # fmt: skip


def _combinations(grid: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
    axes = []
    for axis in grid:
        key, _, values = axis.partition("=")
        axes.append([f"{key}={value}" for value in values.split(",")])
    return [settings_of(pairs) for pairs in itertools.product(*axes)]


def _points(documents: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return a point for each variant, the mean of its runs."""
    gathered: dict[str, list[tuple[str, float, float]]] = {}
    for document in documents:
        base = next(row for row in document["arms"] if row["arm"] == FROZEN)["nats_per_token"]
        for row in document["arms"]:
            if row["arm"] != FROZEN:
                gathered.setdefault(_label(row["arm"], document), []).append(
                    (row["arm"], base - row["nats_per_token"], row["anchor_loss"])
                )
    return [
        Point(
            label=label,
            rival=not runs[0][0].startswith(OURS) or "without-anything" in runs[0][0],
            gain=float(np.mean([gain for _, gain, _ in runs])),
            loss=float(np.mean([loss for _, _, loss in runs])),
            seeds=len(runs),
        )
        for label, runs in gathered.items()
    ]


def _label(arm: str, document: Mapping[str, Any]) -> str:
    """Return what tells an arm from the same arm of another run."""
    if "label" in document:
        return str(document["label"])
    if not arm.startswith(OURS):
        return arm
    if "settings" not in document:
        return f"{arm} ({document['file']})"
    said = _said(document["settings"])
    return (said or arm) if arm == OURS else f"{arm} {said}".strip()


def _said(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return settings as a label has them: `rate 2e-3, anchor.weight 12`."""
    return ", ".join(
        f"{_SHORT.get(f'{section}.{name}', f'{section}.{name}')} {_number(value)}"
        for section, values in settings.items()
        for name, value in values.items()
    )


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    figures, _, power = f"{value:e}".partition("e")
    short = f"{float(figures):g}e{int(power)}"
    return short if len(short) <= len(f"{value:g}") else f"{value:g}"
