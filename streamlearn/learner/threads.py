"""How torch's threads wait for one another; to be settled before torch is imported.

GNU OpenMP, which torch computes with on a CPU, lets a thread that waits for
the others spin for milliseconds. That is fastest on an idle machine, and ruin
on a busy one, where the others wait for the core that is spun on.
"""

from __future__ import annotations

from collections.abc import MutableMapping

_SPINS = "10000"
"""Turns, about 50 µs. Measured on two cores with SmolLM2-135M: 449-464 tok/s against 457-474 alone, and 77 against 17
beside one other process that keeps a core busy."""


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Let waiting threads give their core up soon, unless the operator has chosen otherwise."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
