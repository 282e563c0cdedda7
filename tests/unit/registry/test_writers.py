"""Several writers, each of which may pause, die or be cut off between any two operations: one of them writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.contract.making import TTL_S
from tests.unit.registry.stepping import World, Writer


@pytest.fixture(autouse=True, scope="module")
def _one_thing_at_a_time() -> Iterator[None]:
    """Uploads side by side would come to the gate in an order of their own; no other process sees it."""

    def one_by_one(jobs: Sequence[Callable[[], object]]) -> None:
        for job in jobs:
            job()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamlearn.registry.checkpoints.all_of", one_by_one)
        patch.setattr("streamlearn.registry.lineage._RELEASE_S", 3_600.0)
        yield


def published(world: World) -> Writer:
    """Return a writer with a version behind it, which is champion too."""
    first = world.writer()
    first.acquire()
    first.finish()
    first.commit(publish=True)
    first.finish()
    first.promote()
    first.finish()
    return first


def publish(writer: Writer) -> None:
    writer.commit(publish=True)


def publish_and_promote(writer: Writer) -> None:
    writer.commit(publish=True)
    writer.finish()
    writer.promote()


@pytest.mark.parametrize("wakes", ["zombie first", "successor first", "zombie never"])
@pytest.mark.parametrize(("act", "places"), [(publish, 12), (publish_and_promote, 3)])
def test_wherever_two_writers_are_held_one_of_them_goes_on(
    act: Callable[[Writer], None], places: int, wakes: str
) -> None:
    """Every pair of places: one in a commit or a promotion, one in the take-over from it."""
    for place in range(places):
        later, beyond = 0, False
        while not beyond:
            world = World()
            zombie, successor = published(world), world.writer()
            act(zombie)
            if place:
                zombie.step(place)
            assert zombie.busy
            successor.acquire()
            successor.step()
            world.clock.time += TTL_S
            if later:
                successor.step(later)
            beyond, later = not successor.busy, later + 1
            if wakes == "zombie never":
                zombie.kill()
            for each in [zombie, successor] if wakes == "zombie first" else [successor, zombie]:
                each.finish()
                world.check()
            world.check_whole()
        assert later > 15, "places in a take-over"
    zombie = published(World())
    act(zombie)
    zombie.step(places)
    assert not zombie.busy, "no place is left out"


class Writers(RuleBasedStateMachine):
    """Three processes at a time; who ends is started anew."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.places = [published(self.world), *(self.world.writer(skew_s=skew_s) for skew_s in (90.0, -90.0))]

    def _at(self, place: int) -> Writer:
        if self.places[place].over:
            self.places[place] = self.world.writer()
        return self.places[place]

    @rule(
        place=st.integers(0, 2), what=st.sampled_from(["publish", "publish", "promote", "commit", "renew", "release"])
    )
    def act(self, place: int, what: str) -> None:
        writer = self._at(place)
        if writer.busy:
            writer.step()
        elif writer.epoch is None:
            writer.acquire()
        elif what == "promote":
            writer.promote()
        elif what == "renew":
            writer.renew()
        elif what == "release":
            writer.release()
        else:
            writer.commit(publish=what == "publish")

    @rule(place=st.integers(0, 2), operations=st.integers(1, 12))
    def go_on(self, place: int, operations: int) -> None:
        if self.places[place].busy:
            self.places[place].step(operations)

    @rule(place=st.integers(0, 2))
    def lose_an_answer(self, place: int) -> None:
        if self.places[place].busy:
            self.places[place].step(how="lose")

    @rule(place=st.integers(0, 2))
    def finish(self, place: int) -> None:
        self.places[place].finish()

    @rule(seconds=st.sampled_from([1.0, TTL_S, 10 * TTL_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.time += seconds

    @rule(place=st.integers(0, 2))
    def kill(self, place: int) -> None:
        self.places[place].kill()

    @rule(place=st.integers(0, 2))
    def take_over(self, place: int) -> None:
        """The others are held meanwhile: each of them is a zombie from here on."""
        writer = self._at(place)
        if not writer.busy and writer.epoch is None:
            writer.acquire()
            writer.take_over()

    @invariant()
    def every_promise_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.check_whole()
            finally:
                for each in self.world.writers:
                    each.kill()


Writers.TestCase.settings = settings(
    derandomize=True,
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWriters = pytest.mark.timeout(300)(Writers.TestCase)
