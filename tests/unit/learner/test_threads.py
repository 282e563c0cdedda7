"""Threads share a busy machine, unless the operator wants it otherwise."""

from __future__ import annotations

from streamlearn.learner.threads import share_cores


def test_waiting_threads_do_not_spin_for_long() -> None:
    environment: dict[str, str] = {}
    share_cores(environment)
    assert environment == {"GOMP_SPINCOUNT": "10000"}


def test_what_the_operator_has_chosen_stays() -> None:
    for chosen in ({"GOMP_SPINCOUNT": "1"}, {"OMP_WAIT_POLICY": "active"}):
        environment = dict(chosen)
        share_cores(environment)
        assert environment == chosen
