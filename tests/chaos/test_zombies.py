"""Two workers on one lineage: one waits, and who comes back from the dead writes nothing.

The workers follow one another in a relay: each stands by while the one before
is held at a named point, takes over, and is held at the next. So every
take-over is from another kind of zombie, and each worker is both.
"""

from __future__ import annotations

import json
import logging
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamlearn.config import Store
from streamlearn.core.manifest import EventLine, Head
from streamlearn.registry.aliases import read_alias
from streamlearn.registry.checkpoints import read_state
from streamlearn.registry.documents import verified
from streamlearn.registry.head import read_head
from streamlearn.registry.keys import Keys
from streamlearn.registry.open import open_store
from streamlearn.registry.reader import LineageReader
from tests.chaos.lives import Life, forked
from tests.services.kafka import KafkaService
from tests.services.ports import free_ports
from tests.services.s3 import S3Server
from tests.services.worker import wait_until

_log = logging.getLogger(__name__)

TTL_S = 4.0
POLL_S = 1.0
BUSY_S = 30.0
"""What a machine that is busy with other things may add to a take-over, before we call it late."""
LOT = 2
"""Events written at a time; one step, so that what a zombie left over makes its successor publish little."""
FENCED = 3
KEYS = Keys("relay")


class Runner:
    """A worker of the relay."""

    def __init__(self, life: Life, port: int) -> None:
        self.life = life
        self._port = port

    def ready(self) -> tuple[int, str]:
        """Return what `/readyz` answers; status 0 where nobody does."""
        return self._get("readyz")

    def alive(self) -> int:
        return self._get("healthz")[0]

    def stands_by(self) -> bool:
        assert self.life.code is None, self.life.log
        status, said = self.ready()
        return status == 503 and "waiting for the lease" in said

    def works(self) -> bool:
        assert self.life.code is None, self.life.log
        return self.ready()[0] == 200

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""


class Relay:
    """A topic, a lineage on a store, and the workers that take it from each other."""

    def __init__(self, kafka: KafkaService, s3: S3Server, model: Path, folder: Path) -> None:
        self.topic = kafka.new_topic("relay")
        self._kafka, self._s3, self._model, self._folder = kafka, s3, model, folder
        self._place: Store = s3.fresh()
        self.store = open_store(self._place)
        self.produced = 0
        self._producer = Producer({"bootstrap.servers": kafka.address, "enable.idempotence": True})
        self.runners: list[Runner] = []

    def start(
        self, *, fault: str | None = None, skew_s: float = 0.0, log: str = "json", ttl_s: float = TTL_S
    ) -> Runner:
        """Begin a worker that stops at `fault` and whose clock is wrong."""
        (port,), number = free_ports(1), len(self.runners)
        config = self._folder / f"worker-{number}.toml"
        config.write_text(self._config(port, log, ttl_s))
        env = {"AWS_ACCESS_KEY_ID": self._s3.access_key, "AWS_SECRET_ACCESS_KEY": self._s3.secret_key}
        if self._s3.session_token is not None:
            env["AWS_SESSION_TOKEN"] = self._s3.session_token
        arguments = ["--skew", str(skew_s), *(["--fault", fault] if fault else []), "--", "run", "-c", str(config)]
        runner = Runner(forked(arguments, log=config.with_suffix(".log"), env=env), port)
        self.runners.append(runner)
        return runner

    def end(self) -> None:
        for runner in self.runners:
            runner.life.end()

    def produce(self) -> None:
        """Write one lot of events."""
        for number in range(self.produced, self.produced + LOT):
            value = json.dumps({"id": f"event-{number}", "text": f"the fox jumps over dog number {number}"}).encode()
            self._producer.produce(self.topic, value, partition=0)
        assert self._producer.flush(60) == 0
        self.produced += LOT

    def head(self) -> Head:
        return read_head(self.store, KEYS)[0]

    def latest(self) -> str | None:
        return read_alias(self.store, KEYS, "latest")[0].version

    def objects(self) -> dict[str, bytes]:
        """Return everything there is but the head, which its owner renews."""
        keys = [key for key, _ in self.store.list("relay/")]
        return {key: self.store.get(key).body for key in keys if key != KEYS.head}

    def feed_until(self, condition: Callable[[], object], what: str) -> None:
        """Write a lot, and another each time that it is learnt, until `condition` is true."""

        def fed() -> object:
            if condition():
                return True
            if self.produced == 0 or self._learnt_all():
                self.produce()
            return False

        wait_until(fed, what)

    def _learnt_all(self) -> bool:
        name = self.head().checkpoint
        return name is not None and self._progress(name) == self.produced

    def _progress(self, name: str) -> int:
        return read_state(self.store, KEYS, name).progress[self.topic][0]

    def all_learnt(self) -> None:
        wait_until(self._learnt_all, "every event to be learnt")
        offsets = [line.offset for line in LineageReader(self.store, "relay").ledger() if isinstance(line, EventLine)]
        assert offsets == list(range(self.produced)), "every offset, once and in order"

    def at_rest(self) -> None:
        """Wait until nothing is under way but renewals."""
        self.all_learnt()
        wait_until(lambda: self.latest() == f"v{self.head().version:06d}", "the alias on the newest version")

    def renewals(self, count: int) -> set[int]:
        """Wait for so many changes of the head and return the epochs meanwhile."""
        seen: dict[bytes, int] = {}

        def look() -> bool:
            stored = self.store.get(KEYS.head)
            seen[stored.body] = read_head(self.store, KEYS)[0].epoch
            return len(seen) > count

        wait_until(look, f"{count} renewals")
        return set(seen.values())

    def seconds_until_taken(self, epoch: int) -> float:
        """Return how long after now the head has the next `epoch`; the store tells, not the worker."""
        began = time.monotonic()
        wait_until(lambda: self.head().epoch == epoch, f"epoch {epoch}")
        return time.monotonic() - began

    def _config(self, port: int, log: str, ttl_s: float) -> str:
        endpoint = f'[store.s3]\nendpoint_url = "{self._s3.endpoint_url}"' if self._s3.endpoint_url else ""
        return f"""
            [stream]
            name = "relay"
            [kafka]
            bootstrap_servers = "{self._kafka.address}"
            topics = ["{self.topic}"]
            start = "earliest"
            [ingest.fields]
            id = "id"
            [store]
            url = "{self._place.url}"
            {endpoint}
            [model]
            name = "{self._model}"
            device = "cpu"
            dtype = "fp32"
            [anchor]
            chunks = 4
            tokens = 16
            [learner]
            step_chunks = 2
            flush_s = 0.3
            threads = 1
            [checkpoint]
            every_s = 3_600
            [publish]
            every = "1steps"
            [lease]
            ttl_s = {ttl_s}
            [http]
            port = {port}
            [log]
            format = "{log}"
            """


@pytest.fixture
def relay(kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(kafka, s3, tiny_model, tmp_path)
    try:
        yield relay
    finally:
        relay.end()


def assert_taken_in_time(seconds: float, what: str) -> None:
    """A take-over is due `ttl_s` and one poll after the last renewal, which was before now."""
    _log.info("%s: taken over after %.2f s (lease %g s, poll %g s)", what, seconds, TTL_S, POLL_S)
    assert seconds < TTL_S + POLL_S + BUSY_S


def assert_fenced(zombie: Runner, relay: Relay, why: str = "was taken over by") -> None:
    """Wake it and see that it ends with exit code 3 and one clear line, having changed nothing that counts."""
    relay.at_rest()
    before, epoch = relay.objects(), relay.head().epoch
    zombie.life.send(signal.SIGCONT)
    wait_until(lambda: zombie.life.code is not None, "the end of the zombie")

    assert zombie.life.code == FENCED, zombie.life.log
    said = [line for line in zombie.life.log.splitlines() if line.startswith("streamlearn: ")]
    assert len(said) == 1
    assert said[0] == zombie.life.log.splitlines()[-1]
    assert why in said[0]
    assert "Traceback" not in zombie.life.log
    assert "error" not in zombie.life.log.removesuffix(said[0]).lower(), zombie.life.log
    after = relay.objects()
    assert {key: after[key] for key in before} == before, "what was there is as it was"
    # What it had under way may lie about as garbage, which nothing refers to.
    added = [key for key in after if key not in before]
    assert all(key.startswith((KEYS.checkpoints, KEYS.ledgers)) for key in added), added
    assert relay.head().epoch == epoch


def assert_whole(relay: Relay) -> None:
    """Every offset once, every version from the first complete, and aliases that only ever went forward."""
    reader = LineageReader(relay.store, "relay", on_damage=pytest.fail)
    relay.all_learnt()
    wait_until(lambda: relay.latest() == f"v{relay.head().version:06d}", "the newest version, finished")
    versions = [version.manifest for version in reader.versions()]
    assert [found.version for found in versions] == [f"v{number + 1:06d}" for number in range(relay.head().version)]
    assert [found.parent for found in versions] == [None, *(found.version for found in versions[:-1])]
    for found in versions:
        for name, expected in found.files.items():
            verified(name, relay.store.get(f"relay/versions/{found.version}/{name}").body, expected)
    alias, _ = read_alias(relay.store, KEYS, "latest")
    assert alias.version == versions[-1].version
    assert [move.to_version for move in alias.history] == [found.version for found in versions]
    epochs = [move.epoch for move in alias.history]
    assert epochs == sorted(epochs)


def hold(relay: Relay, runner: Runner, point: str) -> None:
    relay.feed_until(lambda: runner.life.stopped, f"the worker to be held at {point}")


@pytest.mark.timeout(600)
def test_a_writer_held_anywhere_is_replaced_and_writes_nothing_when_it_wakes(relay: Relay) -> None:
    """It exits 3 with one line, whatever the clocks say, and its successor has finished what it had begun."""
    # It renews once an hour, so that none of its threads but the one that publishes can find out.
    first = relay.start(fault="swapped:3:STOP", log="console", ttl_s=10_800.0)
    wait_until(first.works, "the first worker")
    hold(relay, first, "swapped")
    unfinished = relay.head().version
    assert relay.latest() != f"v{unfinished:06d}"
    second = relay.start(fault="uploaded:4:STOP", skew_s=60.0)
    wait_until(second.stands_by, "the second to stand by")
    assert second.alive() == 200
    assert_taken_in_time(relay.seconds_until_taken(2), "held at swapped, successor 60 s ahead")
    wait_until(lambda: relay.latest() == f"v{unfinished:06d}", "the version that was allocated, finished")
    wait_until(second.works, "the second worker")
    assert_fenced(first, relay, "alias 'latest' belongs to a writer of epoch 2; ours was 1")

    third = relay.start(fault="version:half:7:STOP", skew_s=-60.0, log="console")
    wait_until(third.stands_by, "the third to stand by")
    assert relay.renewals(4) == {2}, "longer than the lease, and nobody robbed who lives"
    hold(relay, second, "uploaded")
    committed = relay.head().version
    assert_taken_in_time(relay.seconds_until_taken(3), "held at uploaded, successor 60 s behind")
    wait_until(third.works, "the third worker")
    assert_fenced(second, relay)
    assert relay.head().version > committed, "what was never committed is learnt, and published, by the successor"

    # Ahead by more than any lease: what is no business of a standby's cannot make it rob anybody.
    fourth = relay.start(skew_s=3_600.0)
    wait_until(fourth.stands_by, "the fourth to stand by")
    hold(relay, third, "version:half")
    assert relay.head().epoch == 3
    unfinished = relay.head().version
    assert_taken_in_time(relay.seconds_until_taken(4), "held at version:half, an hour ahead")
    wait_until(lambda: relay.latest() == f"v{unfinished:06d}", "the version that was half there, finished")
    wait_until(fourth.works, "the fourth worker")
    # The thread that renews may find it out before the one that publishes.
    assert_fenced(third, relay, "was taken over")

    fifth = relay.start()
    wait_until(fifth.stands_by, "the fifth to stand by")
    relay.all_learnt()
    fourth.life.send(signal.SIGSTOP)
    relay.produce()
    assert_taken_in_time(relay.seconds_until_taken(5), "held where it was")
    wait_until(fifth.works, "the fifth worker")
    assert_fenced(fourth, relay)

    relay.produce()
    assert_whole(relay)
    fifth.life.send(signal.SIGTERM)
    wait_until(lambda: fifth.life.code is not None, "the end of the last")
    assert fifth.life.code == 0
    assert relay.head().lease is None


@pytest.mark.timeout(600)
def test_a_version_whose_writer_was_killed_is_finished_by_the_next(relay: Relay) -> None:
    """kill -9 between the commit and the manifest, or between two files, skips no number."""
    first = relay.start(fault="swapped:3:KILL")
    wait_until(first.works, "the first worker")
    second = relay.start(fault="version:half:7:KILL")
    wait_until(second.stands_by, "the second to stand by")
    relay.feed_until(lambda: first.life.code == -signal.SIGKILL, "the death of the first")
    unfinished = relay.head().version
    assert relay.latest() != f"v{unfinished:06d}"
    assert_taken_in_time(relay.seconds_until_taken(2), "killed at swapped")
    wait_until(lambda: relay.latest() == f"v{unfinished:06d}", "the version that was allocated, finished")
    wait_until(second.works, "the second worker")

    third = relay.start()
    wait_until(third.stands_by, "the third to stand by")
    idle = relay.start()
    wait_until(idle.stands_by, "another to stand by")
    began = time.monotonic()
    idle.life.send(signal.SIGTERM)
    wait_until(lambda: idle.life.code is not None, "the end of who stood by")
    _log.info("a standby's end: %.2f s after SIGTERM", time.monotonic() - began)
    assert idle.life.code == 0, idle.life.log
    relay.feed_until(lambda: second.life.code == -signal.SIGKILL, "the death of the second")
    unfinished = relay.head().version
    assert_taken_in_time(relay.seconds_until_taken(3), "killed at version:half")
    wait_until(lambda: relay.latest() == f"v{unfinished:06d}", "the version that was half there, finished")
    wait_until(third.works, "the third worker")

    relay.produce()
    assert_whole(relay)
