"""From wishes to a comparison: runs the arms and joins what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamlearn.bench.make import OURS, check, opened, parted
from streamlearn.bench.measures import ArmResult, figures, paired
from streamlearn.bench.report import Comparison
from streamlearn.bench.run import Told, Wishes, run_arm

FROZEN = "frozen"


def compare(arms: Sequence[str], wishes: Wishes, told: Told, run: Callable[..., ArmResult] = run_arm) -> Comparison:
    """Run `arms` one after another, the frozen base first, and return the comparison.

    Args:
        run: runs one arm; `run_here` where a process for each takes too long to begin.

    Raises:
        ArmFailed: an arm ended by an error.
        ValueError: the stream cannot be read, or there is no such arm.
    """
    # What every arm is compared with; it costs little and nothing can be drawn without it.
    ordered = [FROZEN, *(arm for arm in dict.fromkeys(arms) if arm != FROZEN)]
    for arm in ordered:
        # Now, not when its turn comes after an hour.
        check(arm, wishes)
    world = opened(FROZEN, wishes)
    results: list[ArmResult] = [run(arm, wishes, told) for arm in ordered]
    against = next((arm for arm in ordered if parted(arm)[0] == OURS), ordered[-1])
    ours = next(result for result in results if result.arm == against)
    anchor = results[0].probes.get("held-out")
    return Comparison(
        sample=world.sample,
        model=wishes.model,
        seed=wishes.seed,
        settings=wishes.settings,
        rows=[figures(world.sample, result, anchor_base=anchor[-1] if anchor else None) for result in results],
        scores={result.arm: result.nll for result in results},
        against=against,
        gains={result.arm: paired(world.sample, ours.nll, result.nll) for result in results if result.arm != against},
    )
