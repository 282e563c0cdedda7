"""`docker compose up --wait` on the files as they are: it learns, it publishes, it is scraped, it ends well."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlearn.config import S3, Store
from streamlearn.ports import NotFound
from streamlearn.registry.open import open_store
from streamlearn.registry.reader import LineageReader, Version
from tests.services.containers import docker_answers
from tests.services.ports import free_ports
from tests.services.worker import wait_until

ROOT = Path(__file__).parents[2]
PORTS = ("KAFKA_PORT", "S3_PORT", "METRICS_PORT", "PROMETHEUS_PORT")
KEYS = ("for-this-test", "for-this-test-only")

UP_S = 900.0
"""Building the image from nothing downloads most of a gigabyte."""
LEARNT_S = 300.0
"""Several times `publish.every` of the stack: other tests may be using the cores."""


class Stack:
    """The stack of docker-compose.yml under a name and on ports of its own."""

    def __init__(self) -> None:
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._env = os.environ | self.ports
        self._env |= {
            "COMPOSE_PROJECT_NAME": f"streamlearn-test-{os.getpid()}",
            "STREAMLEARN_IMAGE": "streamlearn:test",
            "S3_ACCESS_KEY_ID": KEYS[0],
            "S3_SECRET_ACCESS_KEY": KEYS[1],
        }
        settings = S3.model_validate(
            {
                "endpoint_url": f"http://127.0.0.1:{self.ports['S3_PORT']}",
                "access_key_id": KEYS[0],
                "secret_access_key": KEYS[1],
            }
        )
        self._reader = LineageReader(open_store(Store(url="s3://models/streamlearn", s3=settings)), "changelogs")

    def compose(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run `docker compose` and return what it printed; an exit code but 0 fails the test with the logs."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} exits {done.returncode}\n{done.stderr[-4000:]}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """The last lines of every container."""
        command = ["docker", "compose", "logs", "--tail=15", "--no-color"]
        return subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, text=True, check=False).stdout

    def down(self) -> None:
        """Remove containers and volumes, whatever state they are in."""
        command = ["docker", "compose", "down", "--volumes", "--timeout=10"]
        subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, timeout=120, check=True)

    def versions(self) -> list[Version]:
        """What is published on the stack's S3, read from outside."""
        try:
            return self._reader.versions()
        except NotFound:
            return []

    def query(self, expression: str) -> list[float]:
        """Ask the stack's Prometheus; one number for each series."""
        question = urllib.parse.urlencode({"query": expression})
        address = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}/api/v1/query?{question}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if not docker_answers():
        pytest.skip("no Docker daemon answers, or STREAMLEARN_TEST_CONTAINERS is not 1")
    stack = Stack()
    try:
        stack.compose("up", "--detach", "--build", "--wait", timeout_s=UP_S)
        yield stack
    finally:
        stack.down()


@pytest.mark.containers
@pytest.mark.timeout(UP_S + 2 * LEARNT_S)
def test_compose_brings_up_a_line_that_learns_publishes_and_is_scraped(stack: Stack) -> None:
    """The first thing that somebody with Docker tries must work without a word from us."""
    wait_until(stack.versions, "the first version on the stack's S3", deadline_s=LEARNT_S)
    first = stack.versions()[0]
    assert first.manifest.version == "v000001"
    assert first.manifest.totals.tokens > 0
    assert "latest" in stack.versions()[-1].aliases

    # Prometheus scrapes every 15 s.
    wait_until(
        lambda: any(tokens > 0 for tokens in stack.query("streamlearn_tokens_learnt_total")),
        "Prometheus to have scraped the tokens",
        deadline_s=60.0,
    )
    assert stack.query('ALERTS{alertstate="firing"}') == []


@pytest.mark.containers
@pytest.mark.timeout(UP_S + 2 * LEARNT_S)
def test_the_worker_of_the_stack_ends_well_and_goes_on_where_it_was(stack: Stack) -> None:
    """`docker compose stop` must not cost a step, nor `start` learn one twice."""
    wait_until(stack.versions, "the first version on the stack's S3", deadline_s=LEARNT_S)

    stack.compose("stop", "worker")
    state = json.loads(stack.compose("ps", "--all", "--format=json", "worker"))
    assert (state["State"], state["ExitCode"]) == ("exited", 0), stack.logs()

    stack.compose("up", "--detach", "--wait", "--no-recreate", "worker", timeout_s=LEARNT_S)
    assert '"continuing"' in stack.compose("logs", "worker", "--no-log-prefix")
    assert "v000001" in stack.compose(
        "exec", "worker", "streamlearn", "versions", "-c", "/etc/streamlearn/streamlearn.toml"
    )
