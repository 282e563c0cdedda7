"""When the worker calls itself alive, and when ready."""

from __future__ import annotations

import pytest

from streamlearn.telemetry.health import WorkerHealth
from streamlearn.telemetry.prometheus import PrometheusTelemetry
from tests.fakes.daemon import ManualClock

DAY_S = 86_400.0


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.telemetry = PrometheusTelemetry()
        self.health = WorkerHealth(unhealthy_after_s=120.0, clock=self.clock, telemetry=self.telemetry)

    def shown(self, name: str) -> float | None:
        self.health.show()
        return self.telemetry.registry.get_sample_value(name)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_loop_that_does_not_come_round_is_not_alive(rig: Rig) -> None:
    """Kubernetes restarts a hung worker, and its log says why."""
    rig.health.ready()
    rig.clock.time += 119.0
    assert rig.health.live().ok

    rig.clock.time += 2.0

    assert not rig.health.live().ok
    assert rig.health.live().said == "the loop has not come round for 121 s (http.unhealthy_after_s = 120)"
    assert not rig.health.readiness().ok
    assert rig.shown("streamlearn_loop_age_seconds") == 121.0
    assert rig.shown("streamlearn_ready") == 0.0


def test_a_beat_is_a_sign_of_life(rig: Rig) -> None:
    """A slow stream is no fault: an idle poll counts."""
    rig.health.ready()
    for _ in range(10):
        rig.clock.time += 100.0
        rig.health.beat()

    assert rig.health.live().ok
    assert rig.health.live().said == "OK"
    assert rig.health.readiness().said == "ready"
    assert rig.shown("streamlearn_ready") == 1.0


@pytest.mark.parametrize("reason", ["loading the model", "waiting for the lease of the lineage", "shutting down"])
def test_an_announced_wait_may_take_any_time(rig: Rig, reason: str) -> None:
    """A standby waits for days and a download for minutes; a restart would only begin the wait again."""
    rig.health.beat()
    rig.health.not_ready(reason)
    rig.clock.time += DAY_S

    assert rig.health.live().ok
    assert rig.health.live().said == f"OK: {reason}"
    assert not rig.health.readiness().ok
    assert rig.health.readiness().said == f"not ready for 86400 s: {reason}"
    assert rig.shown("streamlearn_loop_age_seconds") == 0.0
    assert rig.shown("streamlearn_ready") == 0.0


def test_a_loop_that_beats_while_not_ready_is_watched(rig: Rig) -> None:
    """During a store outage the loop goes round without learning; if it hangs then, that is a hang."""
    rig.health.ready()
    rig.health.not_ready("the store is away")
    rig.health.beat()
    rig.clock.time += 121.0

    assert not rig.health.live().ok


def test_the_same_reason_again_does_not_begin_its_time_again(rig: Rig) -> None:
    """An outage of an hour reads as one, though the loop repeats itself."""
    for _ in range(60):
        rig.health.not_ready("the store is away")
        rig.clock.time += 60.0

    assert rig.health.readiness().said == "not ready for 3600 s: the store is away"


def test_a_worker_begins_not_ready(rig: Rig) -> None:
    """The port answers before the model is there."""
    assert rig.health.live().ok
    assert not rig.health.readiness().ok
