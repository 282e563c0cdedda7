import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from streamlearn.cli.rows import event_time
from streamlearn.demo import streams
from streamlearn.demo.facts import facts
from streamlearn.demo.pools import bundled
from streamlearn.demo.scramble import Unit
from streamlearn.demo.streams import Event

POOLS = {name: [f"{name} text {number}" for number in range(500)] for name in ("a", "b", "c")}


def sources(events: list[Event]) -> str:
    return "".join(event["source"] for event in events)


ALL = {
    "stationary": lambda seed: streams.stationary(events=40, seed=seed),
    "abrupt": lambda seed: streams.abrupt(events=40, switch=20, seed=seed),
    "gradual": lambda seed: streams.gradual(events=40, begin=10, end=30, seed=seed),
    "recurring": lambda seed: streams.recurring(events=40, period=10, seed=seed),
    "planted": lambda seed: streams.planted(events=40, seed=seed, share=0.3),
    "poison": lambda seed: streams.poison(events=40, seed=seed, share=0.2),
}


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_stream_repeats_by_seed_and_holds_events_that_the_worker_takes(name: str) -> None:
    """Figures made on it can be made again, and no event is a duplicate or a dead letter."""
    made, again, other = ALL[name](7), ALL[name](7), ALL[name](8)

    assert made == again != other
    assert len(made) == len({event["id"] for event in made}) == len({event["text"] for event in made}) == 40
    assert all(set(event) == {"id", "text", "ts", "source"} and event["text"].strip() for event in made)
    times = [event_time(event, "ts") for event in made]
    assert times == [1_767_225_600.0 + 60.0 * number for number in range(40)]


def test_the_texts_are_real_ones() -> None:
    """Losses on them behave as they do in life."""
    assert {source: len(texts) for source, texts in bundled().items()} == {
        "cython": 311,
        "django": 1082,
        "pip": 265,
        "pytest": 475,
        "sqlalchemy": 1862,
        "twisted": 207,
    }
    for event in streams.abrupt(events=10, switch=5, seed=1):
        assert event["text"] in bundled()[event["source"]]


def test_nothing_changes_in_a_stationary_stream() -> None:
    halves = [Counter(sources(streams.stationary(events=1000, seed=1, pools=POOLS))[half::2]) for half in (0, 1)]

    assert all(130 < half[source] < 205 for half in halves for source in "abc")


def test_equal_pools_make_equal_streams() -> None:
    """In whatever order they were built."""
    turned = dict(reversed(POOLS.items()))

    assert streams.stationary(events=50, seed=1, pools=turned) == streams.stationary(events=50, seed=1, pools=POOLS)


def test_an_abrupt_change_comes_at_its_event() -> None:
    made = streams.abrupt(events=10, switch=7, seed=1, before="a", after="c", pools=POOLS)

    assert sources(made) == "aaaaaaaccc"


def test_a_gradual_change_is_complete_at_its_end() -> None:
    order = sources(streams.gradual(events=600, begin=100, end=500, seed=1, before="a", after="b", pools=POOLS))

    assert set(order[:101]) == {"a"}
    assert set(order[500:]) == {"b"}
    assert order[100:300].count("b") < 70
    assert order[300:500].count("b") > 130


def test_recurring_pools_take_turns() -> None:
    order = sources(streams.recurring(events=10, period=3, seed=1, first="b", second="a", pools=POOLS))

    assert order == "bbbaaabbba"


def test_planted_facts_are_told_in_all_wordings_and_asked_in_another() -> None:
    """What is measured at the end is the fact, not a sentence learnt by heart."""
    known = facts(count=5, seed=3)
    made = streams.planted(events=600, seed=3, count=5, share=0.2, pools=POOLS)
    told = [event["text"] for event in made if event["source"] == "facts"]

    assert Counter(told) == Counter(telling for fact in known for telling in fact.tellings)
    assert len(set(told)) == 5 * 8
    for fact in known:
        name = fact.prompt.split()[2]
        assert sum(name in text and fact.answer.strip() in text for text in told) == 8
        assert not any(fact.prompt in text for text in told)
        assert fact.questions[0] == (fact.prompt, fact.answer)
        for prompt, answer in fact.questions:
            assert name in prompt
            assert sum(name in text and answer.strip() in text for text in told) == 8
            assert not any(prompt in text for text in told)
    assert len({fact.prompt for fact in facts(count=4096, seed=0)}) == 4096


@pytest.mark.parametrize("scramble", ["letters", "words"])
def test_poison_comes_from_one_source_at_its_share(scramble: Unit) -> None:
    made = streams.poison(events=1400, seed=1, share=0.05, begin=400, scramble=scramble, pools=POOLS)
    bad = [number for number, event in enumerate(made) if event["source"] == "mallory"]

    assert min(bad) >= 400
    assert 30 < len(bad) < 75
    whole = {text for texts in POOLS.values() for text in texts}
    assert all((event["text"] in whole) != (number in bad) for number, event in enumerate(made) if number not in bad)
    letters = {"".join(sorted("".join(text.split()))) for text in whole}
    assert all("".join(sorted("".join(made[number]["text"].split()))) in letters for number in bad)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: streams.abrupt(events=9, switch=3, seed=1, before="z", pools=POOLS), "'z'"),
        (lambda: streams.abrupt(events=600, switch=550, seed=1, before="a", after="b", pools=POOLS), "fewer events"),
        (lambda: streams.stationary(events=5000, seed=1), "fewer events"),
        (lambda: streams.gradual(events=9, begin=5, end=5, seed=1), "abrupt"),
        (lambda: streams.recurring(events=9, period=0, seed=1), "at least one"),
        (lambda: streams.poison(events=9, seed=1, share=5), "probability"),
        (lambda: facts(count=5000, seed=1), "4,096"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_mend(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz"])
def test_a_written_stream_is_what_produce_reads(tmp_path: Path, name: str) -> None:
    made = streams.stationary(events=5, seed=1)

    streams.write(tmp_path / name, made)

    body = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(body) if name.endswith("gz") else body).decode().splitlines()
    assert [json.loads(line) for line in lines] == made
