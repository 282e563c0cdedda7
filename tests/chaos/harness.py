"""The chaos run: start workers, strike them as planned, start the next, and let the last one finish.

Knows when a worker has come far enough to be struck and what its end must look
like (a held one exits 3, an orderly stop 0). Whether the lineage kept its
promises is the checker's to say.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.lives import Life, executed, forked
from tests.chaos.plan import LifePlan
from tests.chaos.scene import Scene
from tests.chaos.stream import Feed

FENCED = 3


@dataclass
class Tally:
    """What happened to the workers."""

    kills: int = 0
    takeovers: int = 0
    """Workers that became the writer after one that had not given the lease up."""
    fenced: int = 0
    unclean: int = 0
    """Ends other than exit 0."""
    faults: list[str] = field(default_factory=list)
    """Ends that should not have been."""


class Run:
    """One chain of lives on one scene."""

    def __init__(self, scene: Scene, feed: Feed, say: Callable[[str], None]) -> None:
        self._scene = scene
        self._feed = feed
        self._say = say
        self._began = time.monotonic()
        self._living: list[Life] = []
        self.tally = Tally()

    def through(self, plans: list[LifePlan]) -> None:
        """Live every life of `plans`, then one more that is left alone."""
        try:
            current: Life | None = None
            for plan, following in zip(plans, [*plans[1:], None], strict=True):
                life = current or self._start(plan)
                self._feed.burst(plan.burst)
                current = self._standby(life, following) if plan.standby else None
                self._strike(plan, life, current)
            if current is not None:
                # It took over from one that was held; more may have come since it looked where the topic ends.
                self._end(current)
            self._end(self._next(None))
        finally:
            for each in self._living:
                each.end()

    def _start(self, plan: LifePlan) -> Life:
        arguments = ["--skew", str(plan.skew_s)]
        if plan.blow.fault is not None:
            arguments += ["--fault", plan.blow.fault]
        begin = executed if plan.executed else forked
        log = self._scene.folder / f"life-{plan.number:04d}.log"
        life = begin([*arguments, "--", "run", "-c", str(self._scene.config)], log=log, env=self._scene.env)
        self._living.append(life)
        return life

    def _standby(self, life: Life, plan: LifePlan | None) -> Life:
        """Start the life of `plan` when `life` writes: of two that come together, either may win."""
        # One that finishes a dead writer's version can be held there, before it says that it writes.
        self._until(life, lambda: life.writes or life.stopped or life.code is not None, "its becoming the writer")
        return self._next(plan)

    def _next(self, plan: LifePlan | None) -> Life:
        """Start the life of `plan`, or the last one, which is left alone until the end of the topic."""
        if plan is not None:
            return self._start(plan)
        arguments = ["--", "run", "--until-end", "-c", str(self._scene.config)]
        log = self._scene.folder / f"life-last-{len(self._living)}.log"
        last = executed(arguments, log=log, env=self._scene.env)
        self._living.append(last)
        return last

    def _strike(self, plan: LifePlan, life: Life, successor: Life | None) -> None:
        self.tally.kills += 1
        self._until(life, self._moment(plan, life, successor), f"its moment: {plan.blow}")
        if life.code is None:
            match plan.blow.way:
                case "kill" | "early":
                    life.send(signal.SIGKILL)
                case "term":
                    life.send(signal.SIGTERM)
                case "term twice":
                    life.send(signal.SIGTERM)
                    # The second one falls into the last checkpoint, or before, or after it.
                    self._until(life, _after(plan.blow.moment_s, life), "a moment")
                    life.send(signal.SIGTERM)
                case "stop":
                    life.send(signal.SIGSTOP)
        if plan.holds and life.code is None and successor is not None:
            self._hold(plan, life, successor)
        self._until(life, lambda: life.code is not None, f"its end after {plan.blow}")
        self._note(plan, life, successor)

    def _moment(self, plan: LifePlan, life: Life, successor: Life | None) -> Callable[[], bool]:
        """Return whether the time for the blow has come; a life that has ended by itself need not wait."""
        blow, reached = plan.blow, list[float]()

        def come() -> bool:
            if life.code is not None:
                return True
            if blow.way == "early":
                return time.monotonic() - life.began >= blow.moment_s
            if blow.way == "fault":
                # One that strikes with SIGTERM has yet to end.
                return life.stopped
            if life.commits >= blow.commits and not reached:
                reached.append(time.monotonic())
            return bool(reached) and time.monotonic() - reached[0] >= blow.moment_s

        return come

    def _hold(self, plan: LifePlan, life: Life, successor: Life) -> None:
        """Let the successor take over and go on for a while, then wake who slept."""
        self._until(life, lambda: life.stopped, "its being held")

        def gone_on() -> bool:
            over = successor.code is not None or successor.stopped
            return over or (successor.writes and successor.commits >= plan.held_commits)

        self._until(successor, gone_on, "taking over from who is held")
        if not successor.writes:
            self.tally.faults.append(f"life {plan.number + 1} ended before it took over from who was held")
        life.send(signal.SIGCONT)

    def _note(self, plan: LifePlan, life: Life, successor: Life | None) -> None:
        """Count the end, and complain where it is not the one that was to be."""
        code, tally = life.code, self.tally
        tally.unclean += code != 0
        tally.fenced += code == FENCED
        tally.takeovers += life.writes and life.stood_by
        # On a busy machine a lease may run out under a worker that nobody holds; it must say so, and does no harm.
        lost_lease = code == FENCED and successor is not None and successor.writes
        if code not in _due(plan) and not lost_lease:
            tally.faults.append(f"life {plan.number} ({plan.blow}) exited {code}: {life.last_words}")
        held = " after being held" if plan.holds else ""
        self._say(
            f"life {plan.number:3d}  {plan.blow}{' with standby' if plan.standby else ''}: exit {code}{held}, "
            f"{life.commits} commits  ({time.monotonic() - self._began:.0f} s)"
        )

    def _end(self, last: Life) -> None:
        """Let the last worker come to the ends of the topic, as they were when it began to read."""
        last.wait(lambda: last.code is not None, "the end of the stream")
        self.tally.takeovers += last.writes and last.stood_by
        if last.code != 0:
            self.tally.unclean += 1
            self.tally.faults.append(f"the last worker exited {last.code}: {last.last_words}")

    def _until(self, life: Life, condition: Callable[[], bool], what: str) -> None:
        life.wait(condition, what, meanwhile=self._feed.tick)


def _after(seconds: float, life: Life) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end or life.code is not None


def _due(plan: LifePlan) -> set[int]:
    """Return the exit codes that the blow may end in."""
    if plan.holds:
        return {FENCED}
    match plan.blow.way:
        case "kill" | "early":
            return {-signal.SIGKILL}
        case "term":
            return {0}
        case "term twice":
            return {0, -signal.SIGTERM}
        case _:
            return {-signal.SIGKILL} if str(plan.blow.fault).endswith(":KILL") else {0}
