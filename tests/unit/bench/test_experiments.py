"""The named experiments, each in its fast form: whole runs, and figures that mean what they say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.learning import runs
from benchmarks.learning.__main__ import EXPERIMENTS, main
from benchmarks.learning.experiment import Ask
from benchmarks.learning.points import Point, front, knee
from streamlearn.bench.measures import ArmResult
from streamlearn.bench.run import Told, Wishes, run_here

Document = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that others' loops are made of

KEYS = {
    "experiment", "shows", "stream", "model", "seeds", "tokens", "settings", "machine", "date", "seconds", "figures",
}  # fmt: skip


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Document]:
    """Runs an experiment once for all tests that look at its figures, and looks at what all have in common."""
    folder, known = tmp_path_factory.mktemp("experiments"), dict[str, Document]()

    def document(name: str) -> Document:
        if name not in known:
            figures, picture = folder / f"{name}.json", folder / f"{name}.png"
            assert main([name, "--fast", "--seed", "3", "--json", str(figures), "--plot", str(picture)]) == 0
            known[name] = found = json.loads(figures.read_text())
            assert found.keys() >= KEYS
            assert (found["experiment"], found["model"], found["seeds"]) == (name, "tiny", [3])
            assert found["machine"]["cores"] >= 1
            assert found["machine"]["cpu"]
            assert found["settings"]["learner"]["learning_rate"] > 0
            assert picture.read_bytes().startswith(b"\x89PNG")
            assert picture.stat().st_size > 10_000
        return known[name]

    return document


def test_a_stream_too_short_for_poison_is_told_before_any_arm_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of zeros would look like a filter that works."""
    assert main(["poison", "--max-tokens", "5000"]) == 2
    assert "raise --max-tokens (5,000)" in capsys.readouterr().err


def test_live_gains_over_frozen_what_their_scores_differ_by(documents: Callable[[str], Document]) -> None:
    frozen, ours = documents("live")["figures"]["arms"]

    gain = ours["gain"]
    assert gain["mean"] == pytest.approx(frozen["nats_per_token"] - ours["nats_per_token"], abs=1e-3)
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    assert (frozen["gain"]["mean"], frozen["anchor_loss"]) == (0, 0)


def test_nobody_wins_on_what_the_base_wrote(documents: Callable[[str], Document]) -> None:
    """Learning there can only harm, and at the tiny model's rate it does: the figure is one of harm."""
    found = documents("control")

    for row in found["figures"]["arms"]:
        assert row["loss"]["mean"] == pytest.approx(row["by_seed"][0], abs=1e-4)
        assert row["loss"]["mean"] > 0
        assert row["kept"] == (row["loss"]["mean"] <= found["figures"]["bound"])
    assert found["tokens"] >= 1_500


def test_what_is_forgotten_is_the_probe_after_b_less_that_before(documents: Callable[[str], Document]) -> None:
    """Computed from what the arms scored; replay keeps more of A."""
    arms = {row["arm"]: row for row in documents("forgetting")["figures"]["arms"]}

    frozen, ours, without = arms["frozen"], arms["streamlearn"], arms["streamlearn-without-replay"]
    assert frozen["forgotten_seen"] == frozen["forgotten_unseen"] == frozen["gain_end"] == 0
    seen = [probe["seen"] for probe in ours["probes"]]
    assert any(
        second - first == pytest.approx(ours["forgotten_seen"], abs=1e-4)
        for first, second in itertools.combinations(seen, 2)
    )
    assert min(seen) < frozen["probes"][0]["seen"] - 0.5, "A was learnt"
    assert 0 < ours["forgotten_seen"] < without["forgotten_seen"]
    assert 0 < ours["forgotten_unseen"] < without["forgotten_unseen"]
    assert without["gain_soon"]["mean"] < ours["gain_soon"]["mean"]


def test_every_half_life_is_compared_with_no_window(documents: Callable[[str], Document]) -> None:
    rows = {row["half_life"]: row for row in documents("half-life")["figures"]["variants"]}

    assert rows["no window"]["over_no_window"]["mean"] == 0
    for row in rows.values():
        gap = rows["no window"]["nats_per_token"] - row["nats_per_token"]
        assert row["over_no_window"]["mean"] == pytest.approx(gap, abs=2e-4)
        assert row["gain"]["mean"] > 0
    assert len({row["nats_per_token"] for row in rows.values()}) > 2, "the half-life reaches the learner"


def test_planted_facts_are_asked_before_and_after(documents: Callable[[str], Document]) -> None:
    """Those told and those never told: only what is gained more on the first is knowledge."""
    figures = documents("facts")["figures"]
    frozen_told, frozen_untold, told, untold = figures["answers"]

    assert [row["facts"] for row in figures["answers"]] == ["told", "never told"] * 2
    assert (frozen_told["gain"], frozen_untold["gain"]) == (0, 0)
    assert (told["before"], untold["before"]) == (frozen_told["after"], frozen_untold["after"])
    assert told["gain"] > 0
    assert figures["told_more_than_never_told"] == pytest.approx(told["gain"] - untold["gain"], abs=1e-4)
    tellings = figures["tellings_gain_over_frozen"]
    assert tellings["last third"]["mean"] > tellings["first third"]["mean"]


def test_the_switch_is_noticed_and_its_reaction_compared(documents: Callable[[str], Document]) -> None:
    """The alarm is the watch's own, and comes after the switch; both runs are the same until then."""
    figures = documents("drift")["figures"]
    (alarm,) = figures["alarms"]

    assert alarm["false"] == 0
    assert 0 < alarm["delay"] <= figures["latest_alarm_wanted"] == 100
    assert figures["noticed_in_time"]
    assert figures["delay_median"] == alarm["delay"]
    for span in figures["after_the_switch"].values():
        gap = span["reaction off"] - span["reaction on"]
        assert span["gain"]["mean"] == pytest.approx(gap, abs=2e-4)
        assert gap != 0, "the reaction changes what is learnt"
    assert figures["after_the_switch"]["100"]["chunks"] == [100]


def test_the_gate_keeps_its_word_in_simulation(documents: Callable[[str], Document]) -> None:
    figures = documents("gate")["figures"]
    (even,) = figures["even"]
    power = {(row["gain"], row["sd"]): row["promoted"] for row in figures["power"]}

    assert (even["correlation"], even["runs"]) == (0.5, 200)
    assert even["promoted"] <= 0.05
    assert even["kept"]
    assert power[0.05, 0.05] == 1.0
    assert power[0.002, 0.2] <= 0.4
    assert set(figures["twins"]["verdicts"]) <= {"undecided", "hold", "promote"}
    assert math.isfinite(figures["twins"]["correlation"])


def test_the_junk_filter_passes_over_scrambled_text_and_little_else(documents: Callable[[str], Document]) -> None:
    """The learner with it loses less on everybody else's texts."""
    with_it, without = documents("gate")["figures"]["poison"]["kinds"]

    assert with_it["passed_over_poison"] > 0.5 * with_it["poison_chunks"] > 2
    assert with_it["passed_over_rest"] <= 0.02 * with_it["rest_chunks"]
    assert (without["passed_over_poison"], without["passed_over_rest"]) == (0, 0)
    assert with_it["loss"]["mean"] < without["loss"]["mean"]


def test_all_rivals_stand_in_one_table_under_their_rates(
    documents: Callable[[str], Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output is the table's: nobody's library writes into it."""
    arms = {row["arm"]: row for row in documents("loops")["figures"]["arms"]}
    said = capsys.readouterr().out

    assert {"frozen", "sgd_loop@1e-3", "adamw_loop", "trainer_nightly@1e-3", "streamlearn"} < set(arms)
    assert arms["streamlearn"]["above"] is None
    for name, row in arms.items():
        if name != "streamlearn":
            gap = row["nats_per_token"] - arms["streamlearn"]["nats_per_token"]
            assert row["above"]["mean"] == pytest.approx(gap, abs=1e-3)
    assert "train_runtime" not in said


def test_a_grid_gives_a_point_for_each_combination(documents: Callable[[str], Document]) -> None:
    figures = documents("frontier")["figures"]
    points = {point["label"]: point for point in figures["points"]}

    assert set(points) == {"rate 1e-3", "rate 1e-2", "streamlearn-without-anything@4e-3"}
    assert points["streamlearn-without-anything@4e-3"]["rival"]
    assert len({point["loss"] for point in points.values()} - {0.0}) == 3, "measured on held-out text, of each"
    assert points["rate 1e-2"]["gain"] > points["rate 1e-3"]["gain"] > 0, "the setting reaches the learner"
    assert figures["knee"] in {"rate 1e-3", "rate 1e-2"}


# --- frontier of documents ---------------------------------------------------------------------


def comparison(file: Path, arms: dict[str, tuple[float, float]], **more: Any) -> str:
    """A document as `bench learn --json` writes it, of {arm: (nats per token, loss on held-out text)}."""
    rows = [{"arm": arm, "nats_per_token": nats, "anchor_loss": loss} for arm, (nats, loss) in arms.items()]
    file.write_text(json.dumps({"stream": "s", "tokens": 100, "arms": rows} | more))
    return str(file)


def test_runs_of_one_variant_are_one_point(tmp_path: Path) -> None:
    """Seeds are averaged; files that tell no settings are told apart by their names."""
    frozen, rate = {"frozen": (4.0, 0.0)}, {"settings": {"learner": {"learning_rate": 2e-3}}}
    files = [
        comparison(tmp_path / "a.json", frozen | {"streamlearn": (3.0, 0.01), "sgd_loop": (3.9, 0.0)}, **rate),
        comparison(tmp_path / "b.json", frozen | {"streamlearn": (3.2, 0.03), "sgd_loop": (3.7, 0.1)}, **rate),
        comparison(tmp_path / "old.json", frozen | {"streamlearn": (3.5, 0.0)}),
    ]

    assert main(["frontier", "--results", *files, "--json", str(tmp_path / "f.json"), "--fast"]) == 0
    points = {point["label"]: point for point in json.loads((tmp_path / "f.json").read_text())["figures"]["points"]}

    assert set(points) == {"rate 2e-3", "sgd_loop", "streamlearn (old)"}
    ours = points["rate 2e-3"]
    assert (ours["gain"], ours["loss"], ours["seeds"]) == pytest.approx((0.9, 0.02, 2))
    assert points["sgd_loop"]["rival"]
    assert not points["sgd_loop"]["on_the_front"]


def test_the_front_holds_what_no_other_beats_and_the_knee_lies_where_gain_gets_dear() -> None:
    def point(label: str, gain: float, loss: float) -> Point:
        return Point(label=label, rival=False, gain=gain, loss=loss)

    points = [point("low", 0.1, 0.0), point("knee", 0.45, 0.01), point("beaten", 0.4, 0.02), point("dear", 0.5, 0.1)]

    assert [each.label for each in front(points)] == ["low", "knee", "dear"]
    assert knee(points).label == "knee"
    assert knee(points[:1]).label == "low"


def test_the_frozen_base_is_asked_once(wishes: Wishes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores of a sample come from the cache; another sample, or other questions, are asked anew."""
    asked: list[str] = []

    def runner(arm: str, wished: Wishes, told: Told) -> ArmResult:
        asked.append(arm)
        return run_here(arm, wished, told)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(runs, "run_arm", runner)
    ask = Ask(
        experiment="live", fast=False, seeds=(1,), max_tokens=9, model=wishes.model, settings={}, folder=tmp_path,
        told=lambda *_: None,
    )  # fmt: skip
    first, again = (runs.run_one(ask, "frozen", wishes, ask.told) for _ in range(2))

    assert asked == ["frozen"]
    assert np.array_equal(first.nll, again.nll)
    assert (first.probes, first.probed, first.seconds) == (
        {name: tuple(each) for name, each in again.probes.items()},
        {name: tuple(each) for name, each in again.probed.items()},
        again.seconds,
    )
    runs.run_one(ask, "frozen", dataclasses.replace(wishes, max_tokens=40), ask.told)
    runs.run_one(ask, "frozen", dataclasses.replace(wishes, asked={"a": [{"text": "fox"}]}), ask.told)
    runs.run_one(ask, "streamlearn", wishes, ask.told)
    runs.run_one(ask, "streamlearn", wishes, ask.told)
    assert asked == ["frozen"] * 3 + ["streamlearn"] * 2


# --- the command -----------------------------------------------------------------------------------


def test_it_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out

    names = {line.split()[0] for line in said.splitlines()}
    assert names == set(EXPERIMENTS) > {
        "live", "control", "forgetting", "half-life", "facts", "drift", "gate", "loops", "frontier",
    }  # fmt: skip
    assert all(experiment.shows in said for experiment in EXPERIMENTS.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["magic"], "invalid choice: 'magic'"),
        (["live", "--seed", "x"], "whole number from 0 on"),
        (["live", "--max-tokens", "0"], "whole number from 1 on"),
        (["live", "--fast", "--set", "learner"], "write section.key=value"),
        (["live", "--fast", "--set", "learner.learning_rte=1"], "did you mean learner.learning_rate?"),
        (["live", "--fast", "--json", "/nowhere/at/all.json"], "there is no directory /nowhere/at"),
        (["frontier", "--fast", "--results", "/nowhere.json"], "cannot read /nowhere.json"),
        (["frontier", "--fast", "--grid", "learner"], "write section.key=value"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as refused:
        code = refused.code
    said = capsys.readouterr().err

    assert code == 2
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize("text", ["[]", "{}", '{"arms": []}', '{"arms": [{"arm": "streamlearn"}]}', '{"figures": []}'])
def test_a_file_that_is_no_comparison_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(text)

    assert main(["frontier", "--fast", "--results", str(tmp_path / "a.json")]) == 2
    assert "is no comparison" in capsys.readouterr().err


def test_runs_of_different_streams_share_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"frozen": (4.0, 0.0), "streamlearn": (3.0, 0.0)}
    files = [comparison(tmp_path / f"{tokens}.json", arms, tokens=tokens) for tokens in (100, 200)]

    assert main(["frontier", "--fast", "--results", *files]) == 2
    assert "100 tokens of s; 200 tokens of s" in capsys.readouterr().err
