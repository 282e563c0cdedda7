"""Many round trips at once change neither order nor what a failure means."""

from __future__ import annotations

import threading

import pytest

from streamlearn.registry.parallel import all_of, in_order


def test_jobs_run_side_by_side() -> None:
    """Four uploads take as long as the longest."""
    meeting = threading.Barrier(4)

    all_of([lambda: meeting.wait(timeout=30)] * 4)


def test_the_failure_of_one_job_is_raised_when_all_have_ended() -> None:
    done: list[int] = []

    def fail() -> None:
        raise KeyError("cut")

    with pytest.raises(KeyError, match="cut"):
        all_of([fail, lambda: done.append(1), lambda: done.append(2)])
    assert sorted(done) == [1, 2]


def test_no_job_keeps_a_process_that_ends() -> None:
    """A store that does not answer is asked for minutes; shutdown has seconds."""
    seen: list[bool] = []

    all_of([lambda: seen.append(threading.current_thread().daemon)])

    assert seen == [True]


def test_answers_come_in_order_and_not_far_ahead() -> None:
    asked: list[int] = []

    def work(item: int) -> int:
        asked.append(item)
        return -item

    answers = in_order(work, range(1_000))

    assert [next(answers) for _ in range(3)] == [0, -1, -2]
    assert max(asked) < 100
    assert list(answers) == [-item for item in range(3, 1_000)]


def test_a_failure_is_raised_in_its_place() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise KeyError("cut")
        return item

    answers = in_order(work, range(5))

    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(KeyError, match="cut"):
        next(answers)


def test_nothing_is_nothing() -> None:
    all_of([])
    assert list(in_order(str, [])) == []
