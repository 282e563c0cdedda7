"""Patience with a store that does not answer.

Retries what is transient, with jittered exponential backoff, within a budget
of time; what is refused is raised at once. Also settles what a lost answer
leaves open: whether a conditional write has taken place.

The budget is each request's own, counted from its first attempt: an outage
is over with the first answer, and a commit is many requests.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from typing import TypeVar

import structlog

from streamlearn.ports import Clock, Conflict, NotFound, ObjectStore, StoredObject, StoreUnavailable, Telemetry

_log = structlog.get_logger(__name__)
_FIRST_S, _LONGEST_S = 0.2, 20.0
_LOOK_S = 0.2
"""Between two looks whether anybody still waits for an answer."""

Answer = TypeVar("Answer")


class RetryingStore:
    """An `ObjectStore` that waits out another's absences.

    Args:
        budget_s: how long one request is tried, seconds; 0 tries once.
        should_stop: once true, nobody waits any longer: an attempt that has no answer yet is given up (it may still
            take place, as when an answer is lost) and StoreUnavailable is raised. Asked from any thread.
        wait: sleeps so many seconds, at most; tests pass the time instead.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        budget_s: float,
        clock: Clock,
        telemetry: Telemetry,
        should_stop: Callable[[], bool] | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._store = store
        self._budget_s = budget_s
        self._clock = clock
        self._telemetry = telemetry
        self._should_stop = should_stop
        self._wait = wait or threading.Event().wait
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def url(self) -> str:
        """The store's address without secrets."""
        return self._store.url

    def get(self, key: str) -> StoredObject:
        """Return the object; raises NotFound."""
        return self._patiently("get", lambda _again: self._store.get(key))

    def create(self, key: str, body: bytes) -> str:
        """Write a new object; raises Conflict when another's is there."""
        return self._patiently(
            "create", lambda again: self._settled(again, key, body, lambda: self._store.create(key, body))
        )

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """Replace the object that still has `etag`; raises Conflict when another was faster."""
        return self._patiently(
            "swap", lambda again: self._settled(again, key, body, lambda: self._store.swap(key, body, etag))
        )

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of every object whose key starts with `prefix`, sorted by key."""
        yield from self._patiently("list", lambda _again: list(self._store.list(prefix)))

    def delete(self, key: str) -> None:
        """Remove the object."""
        self._patiently("delete", lambda _again: self._store.delete(key))

    def probe(self) -> None:
        """Prove that the store is writable and honours conditions."""
        self._patiently("probe", lambda _again: self._store.probe())

    def _settled(self, again: bool, key: str, body: bytes, write: Callable[[], str]) -> str:
        """Write; a conflict after a lost answer may be our own earlier attempt."""
        try:
            return write()
        except Conflict:
            if not again:
                raise
            try:
                found = self._store.get(key)
            except NotFound:
                found = None
            if found is None or found.body != body:
                raise
            return found.etag

    def _patiently(self, operation: str, attempt: Callable[[bool], Answer]) -> Answer:
        began, pause, tries = self._clock.monotonic(), _FIRST_S, 0
        while True:
            try:
                return self._answered(partial(attempt, tries > 0))
            except StoreUnavailable as error:
                tries += 1
                waited = self._clock.monotonic() - began
                left = max(self._budget_s - waited, 0.0)
                # Who was held for longer than that, in the middle of a request, asks once more: the time was its own,
                # and what it must hear may be that another has taken over.
                if (left == 0.0 and (tries > 1 or self._budget_s == 0.0)) or self._stopped():
                    raise StoreUnavailable(
                        f"{error} (tried {tries} times in {waited:.0f} s; store.retry_budget_s = {self._budget_s:g})"
                    ) from error
                self._telemetry.count("streamlearn_store_retries_total", operation=operation)
                _log.warning(
                    "the store does not answer; trying again", operation=operation, tries=tries, why=str(error)
                )
                # Jitter, so that a fleet does not come back in step; and the last try is when the budget ends.
                self._rest(min(self._random.uniform(0.5, 1.0) * pause, left))
                pause = min(2.0 * pause, _LONGEST_S)

    def _rest(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while not self._stopped() and (left := until - self._clock.monotonic()) > 0.0:
            self._wait(min(left, _LOOK_S))

    def _answered(self, ask: Callable[[], Answer]) -> Answer:
        """Return what `ask` returns, unless told to stop first."""
        if self._should_stop is None:
            return ask()
        # Aside: a store that takes the connection and says nothing holds a thread for a minute, whatever its signals.
        future: futures.Future[Answer] = futures.Future()
        threading.Thread(target=_fulfil, args=(future, ask), name="registry-ask", daemon=True).start()
        while not futures.wait([future], timeout=_LOOK_S).done:
            if self._stopped():
                raise StoreUnavailable(f"{self.url}: no answer when told to stop")
        return future.result()

    def _stopped(self) -> bool:
        return self._should_stop is not None and self._should_stop()


def _fulfil(future: futures.Future[Answer], ask: Callable[[], Answer]) -> None:
    try:
        future.set_result(ask())
    except BaseException as failure:  # noqa: BLE001 - raised in the thread that waits
        future.set_exception(failure)
