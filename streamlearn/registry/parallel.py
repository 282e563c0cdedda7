"""Several round trips at once: all of some writes, or many reads in order with a bounded look-ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_READERS = 16
"""Objects fetched at the same time: a ledger is thousands of small ones, each a round trip."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def all_of(jobs: Sequence[Callable[[], object]]) -> None:
    """Run `jobs` side by side, return when all have ended, and raise the first failure.

    In daemon threads, as a pool's would keep a process that was told to end
    until a store that does not answer has used up its whole retry budget.
    """
    failures: list[BaseException] = []

    def guarded(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as failure:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(job,), name="registry-upload", daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def in_order(work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """Yield `work(item)` of each item, in order, computed at most a few items ahead of who takes them."""
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="registry-read")
    ahead: deque[Future[Answer]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) >= 2 * _READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
