"""What can only be told once the model is known, and a start that is given up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from streamlearn.bootstrap import StoppedEarly, Worker, stream_settings
from streamlearn.config import Config
from streamlearn.ports import StoreUnavailable
from tests.services.ports import free_ports
from tests.services.worker import wait_until
from tests.unit.learner.conftest import config_for


def test_a_reservoir_below_one_chunk_is_refused() -> None:
    """It would hold nothing, and nobody would notice."""
    config = config_for("m", mix={"reservoir_tokens": 300})
    assert stream_settings(config, 256).reservoir_chunks == 1
    with pytest.raises(ValueError, match=r"mix\.reservoir_tokens = 300 is below one chunk of 1024 tokens"):
        stream_settings(config, 1024)


def test_an_anchor_takes_its_share_from_the_fresh_and_only_where_there_is_one() -> None:
    fresh = 1.0 - config_for("m").mix.window - config_for("m").mix.reservoir
    share = config_for("m").mix.anchor
    assert share > 0.0
    assert stream_settings(config_for("m", anchor={"chunks": 0}), 256).shares.fresh == pytest.approx(fresh)
    assert stream_settings(config_for("m"), 256).shares.fresh == pytest.approx(fresh - share)
    file = {"file": "a", "chunks": 0}
    assert stream_settings(config_for("m", anchor=file), 256).shares.fresh == pytest.approx(fresh - share)


def away(**store: Any) -> Config:
    """A configuration whose store's port is closed; no model is ever looked for."""
    s3 = {
        "endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}", "access_key_id": "a", "secret_access_key": "b",
    }  # fmt: skip
    return config_for("no-such-model", store={"url": "s3://models/x", "s3": s3, **store}, http={"port": 0})


def test_a_start_that_waits_for_the_store_ends_when_told_to() -> None:
    """Nobody waits out the budget for a worker that has nothing to lose."""
    worker, ended = Worker(away()), list[BaseException]()

    def run() -> None:
        try:
            with worker:
                raise AssertionError("it came past a store that is not there")
        except BaseException as failure:  # noqa: BLE001 - looked at below
            ended.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: worker._http is not None, "the start")
    worker.stop()
    thread.join(60)

    assert [type(failure) for failure in ended] == [StoppedEarly]
    assert "does not answer" in str(ended[0])


def test_a_start_without_a_store_ends_with_the_budget() -> None:
    with pytest.raises(StoreUnavailable, match=r"store\.retry_budget_s = 0\)"), Worker(away(retry_budget_s=0)):
        pass
