import pytest

from streamlearn.core.blocks import Blocks
from tests.unit.core.judging import through_json


def test_a_block_is_the_difference_of_sums_over_the_sum_of_tokens() -> None:
    """The gate's figure is the one that scores report; a tiny chunk has a tiny say."""
    blocks = Blocks(2)

    assert blocks.add(300.0, 200.0, 100) is None
    assert blocks.add(0.0, 20.0, 1) == pytest.approx(80.0 / 101)
    assert blocks.add(1.0, 0.0, 1) is None


def test_a_chunk_without_scored_tokens_takes_no_place() -> None:
    """Prompts alone would fill blocks with nothing, and divide by it."""
    blocks = Blocks(1)

    assert blocks.add(0.0, 0.0, 0) is None
    assert blocks.add(3.0, 1.0, 2) == 1.0


def test_a_restored_block_goes_on_where_it_was() -> None:
    blocks, other = Blocks(3), Blocks(3)
    for _ in range(2):
        blocks.add(1.0, 0.25, 1)
    other.restore(through_json(blocks.document()))

    assert other.add(1.0, 0.25, 1) == blocks.add(1.0, 0.25, 1) == 0.75
