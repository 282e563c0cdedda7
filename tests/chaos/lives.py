"""A worker's life: a real process with a log of its own, which is there to be struck.

Most are forked from a process that has imported everything (multiprocessing's
fork server), because torch takes seconds to import and a run has hundreds of
lives; some are the true command, so that nothing hides in the fork.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

DEADLINE_S = 120.0
_LOOK_S = 0.05
ROOT = Path(__file__).parents[2]
_FORKS = multiprocessing.get_context("forkserver")


class _Handle(Protocol):
    """What both kinds of process have."""

    @property
    def pid(self) -> int: ...

    def ended(self) -> int | None:
        """Return the exit code, negative for a signal; None while it lives."""


class Life:
    """One worker, from its start to its end."""

    def __init__(self, handle: _Handle, log: Path) -> None:
        self._handle = handle
        self._log = log
        self.began = time.monotonic()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._handle.pid

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it lives."""
        return self._handle.ended()

    @property
    def stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def commits(self) -> int:
        """How many checkpoints it has said to have committed."""
        return self._said("checkpoint committed")

    @property
    def stood_by(self) -> bool:
        """Whether it has waited for another's lease."""
        return self._said("standing by") > 0

    @property
    def writes(self) -> bool:
        """Whether it has become the writer."""
        return self._said("continuing") + self._said("a new lineage") > 0

    @property
    def last_words(self) -> str:
        """The end of its log: as a rule, why it ended."""
        return "\n".join(self.log.splitlines()[-5:])

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it still is."""
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> None:
        """See to it that the process is gone."""
        self.send(signal.SIGKILL)
        self.wait(lambda: self.code is not None, "its end by SIGKILL")

    def wait(
        self,
        condition: Callable[[], object],
        what: str,
        *,
        meanwhile: Callable[[], object] = lambda: None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Return when `condition` is true.

        Raises:
            TimeoutError: it did not become true; names `what` was waited for.
        """
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"worker {self.pid}: waited {deadline_s:g} s in vain for {what}\n{self.last_words}")
            meanwhile()
            # A look: nothing tells us when another process has come so far.
            time.sleep(_LOOK_S)

    def _said(self, event: str) -> int:
        return self.log.count(f'"event": {json.dumps(event)}')


def forked(arguments: Sequence[str], *, log: Path, env: dict[str, str]) -> Life:
    """Begin a life by forking the process that has imported everything."""
    # An OpenBLAS with threads of its own would not survive the fork; torch's threads start in the child.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _FORKS.set_forkserver_preload(["tests.chaos.worker", "transformers", "peft", "confluent_kafka", "boto3"])
    process = _FORKS.Process(target=_live, args=(list(arguments), str(log), env), daemon=True)
    log.touch()
    process.start()
    return Life(_Forked(process), log)


def executed(arguments: Sequence[str], *, log: Path, env: dict[str, str], tree: Path = ROOT) -> Life:
    """Begin a life with the true command.

    Args:
        tree: the folder whose `streamlearn` and `tests` it runs.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | env,
            cwd=tree,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl
        )
    return Life(_Executed(process), log)


def end_forks() -> None:
    """End the process that the lives were forked from; the next `forked` starts another."""
    # It would go with this process; the method is the library's own tests' way to end it sooner.
    getattr(forkserver, "_forkserver")._stop()  # noqa: B009


class _Forked:
    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def ended(self) -> int | None:
        return self._process.exitcode


class _Executed:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        return self._process.poll()


def _live(arguments: list[str], log: str, env: dict[str, str]) -> None:
    """Run in the fork: take on what makes it a process of its own, then be the worker."""
    _die_with_parent()
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(out, stream)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(env)
    from tests.chaos.worker import main

    main(arguments)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: a run that is killed itself leaves nobody behind.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
