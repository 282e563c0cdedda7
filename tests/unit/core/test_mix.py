import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.batches import Role
from streamlearn.core.mix import REPLAYED, Mix, Shares


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(1, 256)), min_size=300, max_size=400))
def test_shares_are_kept_over_time_whatever_the_sizes(sizes: list[tuple[int, int]]) -> None:
    """The mix is a promise about tokens, not about draws."""
    shares, spent = Shares(window=0.15, reservoir=0.10, anchor=0.05), dict.fromkeys(Role, 0)
    mix = Mix(shares)
    for fresh, replayed in sizes:
        mix.earn(fresh)
        spent[Role.FRESH] += fresh
        for role in REPLAYED:
            while mix.due(role):
                mix.spend(role, replayed)
                spent[role] += replayed

    for role in REPLAYED:
        owed = spent[Role.FRESH] * shares.of(role) / shares.fresh
        # One chunk is drawn whole where any credit is left.
        assert owed <= spent[role] + 1e-6
        assert spent[role] <= owed + 256


def test_an_empty_pool_saves_up_no_debt() -> None:
    """The first chunk of a window is not rehearsed a hundred times."""
    mix = Mix(Shares(window=0.5, reservoir=0.0, anchor=0.0))
    mix.earn(10_000)

    mix.forgo(Role.WINDOW)

    assert not mix.due(Role.WINDOW)


def test_a_restored_mix_goes_on_where_it_stood() -> None:
    """A restart leaves no trace."""
    mix, other = Mix(Shares(window=0.2, reservoir=0.1, anchor=0.0)), Mix(Shares(window=0.2, reservoir=0.1, anchor=0.0))
    mix.earn(123)
    mix.spend(Role.WINDOW, 17)

    other.restore(mix.state())

    assert other.credit == pytest.approx(mix.credit, abs=0)
