import math

import pytest

from streamlearn.core.prequential import OTHER, Prequential


def test_means_are_sums_of_losses_over_sums_of_tokens() -> None:
    """A short chunk does not count as much as a long one."""
    scores = Prequential(max_sources=9)
    scores.add("a", tokens=1, text_bytes=4, live=5.0, base=6.0)
    scores.add("a", tokens=9, text_bytes=40, live=5.0, base=None)

    every = scores.scores().live_every_chunk

    assert every is not None
    assert every.nats_per_token == pytest.approx(1.0)
    assert every.bits_per_byte == pytest.approx(10.0 / (44 * math.log(2)))


def test_live_and_base_are_compared_on_the_same_chunks() -> None:
    """The gain is no artefact of which chunks were sampled."""
    scores = Prequential(max_sources=9)
    scores.add("a", tokens=10, text_bytes=40, live=10.0, base=20.0)
    scores.add("a", tokens=10, text_bytes=40, live=90.0, base=None)

    found = scores.scores()

    assert found.live is not None
    assert found.base is not None
    assert (found.live.nats_per_token, found.base.nats_per_token) == (1.0, 2.0)
    assert found.live.tokens == found.base.tokens == 10


def test_the_fading_average_follows_the_recent_past() -> None:
    """An alarm does not wait for the whole history to change."""
    scores = Prequential(max_sources=9)
    for nll in [1.0] * 1000 + [3.0] * 200:
        scores.add("a", tokens=1, text_bytes=4, live=nll, base=None)

    every = scores.scores().live_every_chunk

    assert every is not None
    assert every.nats_per_token == pytest.approx(4 / 3)
    assert every.fading["0.99"] == pytest.approx(3.0 - 2 * 0.99**200, rel=1e-3)
    assert every.fading_bits_per_byte == pytest.approx(
        {alpha: nats / (4 * math.log(2)) for alpha, nats in every.fading.items()}
    )


def test_fading_bits_per_byte_forget_the_length_of_old_text_too() -> None:
    """Text that turns to a language with more bytes a token is measured by its own bytes."""
    scores = Prequential(max_sources=9)
    for text_bytes in [1] * 1000 + [8] * 2000:
        scores.add("a", tokens=1, text_bytes=text_bytes, live=math.log(2), base=None)

    every = scores.scores().live_every_chunk

    assert every is not None
    assert every.bits_per_byte == pytest.approx(3000 / 17_000)
    assert every.fading_bits_per_byte["0.99"] == pytest.approx(1 / 8, rel=1e-6)
    assert every.by_source["a"].fading_bits_per_byte == every.fading_bits_per_byte


def test_text_without_bytes_has_a_score() -> None:
    """A chunk of nothing but special tokens divides by no zero."""
    scores = Prequential(max_sources=9)
    scores.add("a", tokens=1, text_bytes=0, live=math.log(2), base=None)

    every = scores.scores().live_every_chunk

    assert every is not None
    assert every.bits_per_byte == every.fading_bits_per_byte["0.99"] == 1.0


def test_a_producer_cannot_flood_the_labels() -> None:
    """Prometheus survives a source that is a random number."""
    scores = Prequential(max_sources=3)
    for number in range(10):
        scores.add(f"source {number}", tokens=1, text_bytes=1, live=1.0, base=1.0)

    every = scores.scores().live_every_chunk

    assert every is not None
    assert list(every.by_source) == sorted(["source 0", "source 1", "source 2", OTHER])
    assert every.by_source[OTHER].tokens == 7


def test_restored_scores_go_on_where_they_stood() -> None:
    """A restart leaves no trace."""
    one, other = Prequential(max_sources=3), Prequential(max_sources=3)
    for number in range(5):
        one.add(f"s{number % 2}", tokens=3, text_bytes=9, live=0.1 * number, base=0.3)
    other.restore(one.state())
    for scores in (one, other):
        scores.add("s0", tokens=2, text_bytes=5, live=0.7, base=0.2)

    assert one.scores() == other.scores()
