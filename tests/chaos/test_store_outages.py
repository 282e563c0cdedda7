"""A store that goes away, comes back, lies, fills up or is gone for good, under a worker that learns.

The worker runs in this process, so that its bounds can be brought within
reach of a test; what its end looks like from outside is shown on processes.
Kafka and S3 are real, and what breaks stands between them and the worker.
"""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from confluent_kafka import Producer

from streamlearn.bootstrap import Worker
from streamlearn.config import Config
from streamlearn.config_file import resolve
from streamlearn.core.manifest import EventLine, ScoreLine
from streamlearn.ports import Fenced, NotFound, StoreRefused
from streamlearn.registry.open import open_store
from streamlearn.registry.reader import LineageReader
from streamlearn.reporter import RunReport
from tests.services.faulty_s3 import EXPIRED_TOKEN, TRANSIENT, faulty
from tests.services.kafka import KafkaService
from tests.services.ports import free_ports
from tests.services.proxy import Proxy
from tests.services.s3 import S3Server
from tests.services.worker import DEADLINE_S, RunningWorker, running, wait_until

ROOM = 400
"""Ledger lines that memory is given here: an event of one chunk leaves two."""


class Site:
    """A topic with events, and a lineage on a store."""

    def __init__(self, kafka: KafkaService, server: S3Server, model: Path, url: str | None = None) -> None:
        self._kafka = kafka
        self._model = model
        self.topic = kafka.new_topic("outage")
        self.server = server
        self.url = url or server.store().url
        self.produced = 0

    @property
    def bucket(self) -> str:
        """The lineage's own."""
        return self.url.split("/")[2]

    def produce(self, count: int) -> None:
        """Write so many events more."""
        producer = Producer({"bootstrap.servers": self._kafka.address, "enable.idempotence": True})
        for number in range(self.produced, self.produced + count):
            producer.produce(self.topic, json.dumps({"id": f"e{number}", "text": f"the fox jumps {number}"}).encode())
        assert producer.flush(60) == 0
        self.produced += count

    def document(self, endpoint: str | None, **sections: dict[str, Any]) -> dict[str, Any]:
        """Return a configuration that reaches the store at `endpoint`, with `sections` laid over it."""
        document: dict[str, Any] = {
            "stream": {"name": "line"},
            "kafka": {"bootstrap_servers": self._kafka.address, "topics": [self.topic], "start": "earliest"},
            "ingest": {"fields": {"id": "id"}},
            "store": {"url": self.url, "retry_budget_s": 120, "s3": {"endpoint_url": endpoint}},
            "model": {"name": str(self._model), "device": "cpu", "dtype": "fp32"},
            # At the default rank, a checkpoint on a thin line takes about as long as the store's time-out.
            "lora": {"rank": 1},
            "anchor": {"chunks": 4, "tokens": 16},
            "learner": {"flush_s": 0.2, "threads": 1},
            "checkpoint": {"every_s": 0.3},
            "publish": {"every": "5steps"},
            "lease": {"ttl_s": 3},
            "http": {"port": 0},
            "log": {"format": "json"},
        }
        for section, keys in sections.items():
            document[section] = document.get(section, {}) | keys
        return document

    def config(self, endpoint: str | None, **sections: dict[str, Any]) -> Config:
        """Return the same, loaded, with the server's keys."""
        keys = {"access_key_id": self.server.access_key, "secret_access_key": self.server.secret_key}
        document = self.document(endpoint, **sections)
        if self.url.startswith("s3:"):
            document["store"]["s3"] |= keys
        else:
            del document["store"]["s3"]
        return resolve(document, {})

    def committed(self) -> int:
        """Return how many events the committed ledger holds, asked past whatever is broken."""
        try:
            return sum(isinstance(line, EventLine) for line in self._reader.ledger())
        except NotFound:
            return 0

    def assert_nothing_lost_or_repeated(self) -> None:
        """Every offset and every first visit is in the committed ledger once, and versions are whole."""
        lines = list(self._reader.ledger())
        assert [line.offset for line in lines if isinstance(line, EventLine)] == list(range(self.produced))
        scored = [line.id for line in lines if isinstance(line, ScoreLine)]
        assert scored == [f"e{number}" for number in range(self.produced)]
        for version in self._reader.versions():
            assert version.manifest.files

    @property
    def _reader(self) -> LineageReader:
        store = open_store(self.config(self.server.endpoint_url).store)
        return LineageReader(store, "line")


class Background:
    """A worker in a thread of this process."""

    def __init__(self, config: Config) -> None:
        self.worker = Worker(config)
        self.failure: BaseException | None = None
        self.report: RunReport | None = None
        self.ended = threading.Event()
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def _run(self) -> None:
        try:
            with self.worker:
                self.report = self.worker.run()
        except BaseException as failure:  # noqa: BLE001 - looked at by the test
            self.failure = failure
        finally:
            self.ended.set()

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of its HTTP server; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.worker.http_address}{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, AssertionError):
            return 0, ""

    def metric(self, name: str, labels: str = "") -> float:
        """Return the sum over the series of a metric whose labels hold `labels`."""
        assert not self.ended.is_set(), f"the worker has ended: {self.failure}"
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if labels in line)

    def wait_for(self, name: str, value: float) -> None:
        """Return when a metric has come to `value`."""
        wait_until(lambda: self.metric(name) >= value, f"{name} >= {value}")

    def end(self) -> BaseException | None:
        """Wait for the end that is coming and return what it was raised by."""
        assert self.ended.wait(DEADLINE_S), "it goes on"
        return self.failure

    def stop(self) -> None:
        """Tell it to stop, and see it end well."""
        self.worker.stop()
        assert self.end() is None


@contextmanager
def background(config: Config) -> Iterator[Background]:
    """Run a worker until the block ends."""
    running = Background(config)
    try:
        yield running
    finally:
        running.worker.stop()
        assert running.ended.wait(DEADLINE_S)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds and pauses that a test can wait for."""
    monkeypatch.setattr("streamlearn.checkpointer._MAX_LINES", ROOM)
    monkeypatch.setattr("streamlearn.registry.retrying._LONGEST_S", 0.5)
    monkeypatch.setattr("streamlearn.telemetry.health._TROUBLE_S", 0.5)
    monkeypatch.setattr("streamlearn.registry.s3._READ_S", 2.0)


@pytest.fixture
def site(kafka: KafkaService, s3: S3Server, tiny_model: Path) -> Site:
    return Site(kafka, s3, tiny_model)


def through(proxy: Proxy) -> str:
    return f"http://{proxy.address}"


# --- what passes --------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_learning_goes_on_until_memory_is_full_and_all_is_kept_when_the_store_is_back(site: Site) -> None:
    """An outage costs freshness, never events; and who asks is told which of both phases it is."""
    site.produce(40)
    assert site.server.endpoint_url is not None
    with Proxy(site.server.endpoint_url) as proxy, background(site.config(through(proxy))) as worker:
        wait_until(lambda: site.committed() == 40, "a checkpoint before the outage")
        wait_until(lambda: worker.get("/readyz")[0] == 200, "the worker")
        proxy.refuse()
        site.produce(100)
        worker.wait_for("streamlearn_events_total", 140)
        worker.wait_for("streamlearn_store_retries_total", 2)
        assert worker.get("/readyz") == (200, "ready\n"), "there is room, so it does its work"

        site.produce(1_000)
        wait_until(lambda: worker.get("/readyz")[0] == 503, "memory to be full")
        assert "the store has not taken a checkpoint for too long" in worker.get("/readyz")[1]
        assert worker.get("/healthz")[0] == 200
        assert worker.metric("streamlearn_ready") == 0
        held = worker.metric("streamlearn_events_total")
        assert 40 + ROOM / 2 - 10 < held < 140 + ROOM
        # The lag goes on being shown: it is what an operator watches now.
        wait_until(lambda: worker.metric("kafka_consumergroup_lag") > 0, "the lag")
        retries = worker.metric("streamlearn_store_retries_total")
        worker.wait_for("streamlearn_store_retries_total", retries + 3)
        assert worker.metric("streamlearn_events_total") == held, "nothing is admitted meanwhile"

        proxy.heal()
        wait_until(lambda: worker.get("/readyz")[0] == 200, "ready again")
        worker.wait_for("streamlearn_events_total", site.produced)
        worker.stop()
        assert worker.report is not None
        assert worker.report.events == site.produced, "one process, all the way"
    site.assert_nothing_lost_or_repeated()


@pytest.mark.usefixtures("quick")
def test_every_passing_error_of_s3_is_waited_out(site: Site) -> None:
    """Whatever a busy store answers to whichever request, the lineage is that of a quiet day."""
    site.produce(60)
    with faulty(site.server) as server:
        told: list[Callable[[], int]] = []
        for turn, answer in enumerate(TRANSIENT):
            # Each kind of object meets some of the errors, each of the errors some kind of object.
            keys = ("/head.json", "/checkpoints/", "/ledger/", "/versions/", "/aliases/")[turn % 2 :: 2]
            told += [server.fail(answer, key=key) for key in keys]
            told.append(server.fail(answer, method="GET"))
        keys = ("/head.json", "/state.json", "/window", "/ledger/", "/manifest.json", "/aliases/")
        told += [server.lose_answers(key=key, times=2) for key in keys]
        with background(site.config(server.server.endpoint_url)) as worker:
            worker.wait_for("streamlearn_version", 1)
            # Anew, as a start may have met them all: a writer that commits and renews must not be fenced by itself.
            told += [server.lose_answers(key="/head.json", times=3)]
            site.produce(300)
            worker.wait_for("streamlearn_events_total", 360)
            wait_until(lambda: all(count() for count in told), "every fault to have struck")
            assert worker.metric("streamlearn_epoch") == 1
            worker.stop()
    site.assert_nothing_lost_or_repeated()


@pytest.mark.usefixtures("quick")
def test_a_line_that_cuts_uploads_falls_silent_or_crawls_is_waited_out(site: Site) -> None:
    """Half an upload is none, and an answer that never comes is a time-out."""
    site.produce(40)
    assert site.server.endpoint_url is not None
    with Proxy(site.server.endpoint_url) as proxy, background(site.config(through(proxy))) as worker:
        wait_until(lambda: site.committed() == 40, "a checkpoint before the trouble")
        proxy.cut_after(3_000)
        site.produce(40)
        wait_until(lambda: proxy.cuts >= 6, "uploads to be cut")
        assert site.committed() == 40
        proxy.heal()
        wait_until(lambda: site.committed() == 80, "the upload to go through")

        proxy.blackhole()
        site.produce(40)
        retries = worker.metric("streamlearn_store_retries_total")
        worker.wait_for("streamlearn_store_retries_total", retries + 2)
        proxy.throttle(200_000)
        wait_until(lambda: site.committed() == 120, "a checkpoint over a thin line")
        proxy.delay(0.05)
        site.produce(40)
        wait_until(lambda: site.committed() == 160, "a checkpoint over a long line")
        worker.stop()
    site.assert_nothing_lost_or_repeated()


@pytest.mark.usefixtures("quick")
def test_a_writer_that_only_itself_is_cut_off_is_replaced_and_fenced(site: Site) -> None:
    """Its lease runs out while it waits for the store; what the other has committed stands."""
    site.produce(40)
    assert site.server.endpoint_url is not None
    with Proxy(site.server.endpoint_url) as proxy, background(site.config(through(proxy))) as first:
        wait_until(lambda: site.committed() == 40, "the first writer")
        proxy.refuse()
        site.produce(40)
        first.wait_for("streamlearn_events_total", 80)
        with background(site.config(site.server.endpoint_url)) as second:
            wait_until(lambda: site.committed() == 80, "the second writer")
            assert second.metric("streamlearn_epoch") == 2
            assert not first.ended.is_set(), "it waits for the store, within its budget"
            proxy.heal()
            assert isinstance(first.end(), Fenced)
            site.produce(40)
            wait_until(lambda: site.committed() == 120, "the second to go on")
            second.stop()
    site.assert_nothing_lost_or_repeated()


# --- what does not pass ------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_keys_that_expire_end_the_worker_at_once(site: Site) -> None:
    """Waiting five minutes would not make them valid."""
    site.produce(40)
    with faulty(site.server) as server, background(site.config(server.server.endpoint_url)) as worker:
        wait_until(lambda: site.committed() == 40, "a checkpoint")
        server.fail(EXPIRED_TOKEN, times=math.inf)
        began = time.monotonic()
        failure = worker.end()
        assert isinstance(failure, StoreRefused)
        assert "check the key, its expiry" in str(failure)
        assert "ExpiredToken" in str(failure)
        assert time.monotonic() - began < 60
        server.heal()
    with background(site.config(site.server.endpoint_url)) as again:
        again.wait_for("streamlearn_ready", 1)
        again.stop()
    site.assert_nothing_lost_or_repeated()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["seaweedfs", "minio"])
def test_a_bucket_that_is_deleted_ends_the_worker_at_once(
    kind: str, request: pytest.FixtureRequest, kafka: KafkaService, tiny_model: Path
) -> None:
    """And says so, rather than that another writer has taken over."""
    server: S3Server = request.getfixturevalue(kind)
    site = Site(kafka, server, tiny_model)
    site.produce(40)
    assert server.endpoint_url is not None
    with Proxy(server.endpoint_url) as proxy, background(site.config(through(proxy))) as worker:
        wait_until(lambda: site.committed() == 40, "a checkpoint")
        proxy.blackhole()
        wait_until(lambda: is_gone(server, site.bucket), "the bucket to go")
        proxy.heal()
        failure = worker.end()
        assert isinstance(failure, StoreRefused)
        assert f"bucket '{site.bucket}' does not exist" in str(failure)


def is_gone(server: S3Server, bucket: str) -> bool:
    """Delete a bucket with all that is in it, as far as nobody writes to it meanwhile."""
    client = server.client()
    with suppress(botocore.exceptions.ClientError):
        for item in client.list_objects_v2(Bucket=bucket).get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=item["Key"])
        client.delete_bucket(Bucket=bucket)
        return True
    return False


@pytest.mark.usefixtures("quick")
def test_a_full_disk_ends_the_worker_and_loses_nothing(
    kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path: Path
) -> None:
    """Half a checkpoint is none, and there is room again when somebody has made some."""
    with small_disk(tmp_path / "disk", "12m") as disk:
        site = Site(kafka, s3, tiny_model, url=str(disk / "store"))
        site.produce(40)
        with background(site.config(None)) as worker:
            wait_until(lambda: worker.ended.is_set() or site.committed() == 40, "a checkpoint")
            assert not worker.ended.is_set(), f"the disk was full too early: {worker.failure}"
            while not worker.ended.is_set():
                site.produce(40)
                before = site.produced
                wait_until(lambda: worker.ended.is_set() or site.committed() == before, "a checkpoint, or the end")  # noqa: B023 - asked at once
            assert isinstance(worker.failure, StoreRefused)
            assert "No space left on device; free some space" in str(worker.failure)
        assert site.committed() >= 40
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        with background(site.config(None)) as again:
            wait_until(lambda: site.committed() == site.produced, "what was not committed")
            again.stop()
        site.assert_nothing_lost_or_repeated()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of `size` at `folder` until the block ends; skips where we may not."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- the end, as an operator sees it ------------------------------------------------------


@contextmanager
def process(site: Site, folder: Path, endpoint: str, **sections: dict[str, Any]) -> Iterator[RunningWorker]:
    """Run the worker as a process until the block ends."""
    (port,) = free_ports(1)
    config = folder / f"{port}.toml"
    config.write_text(toml(site.document(endpoint, **sections | {"http": {"port": port}})))
    with running(config, port, env=environment(site.server)) as worker:
        yield worker


def environment(server: S3Server) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}


def toml(document: dict[str, Any], above: str = "") -> str:
    """Write a configuration of plain values and tables."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in document.items() if not isinstance(value, dict)]
    tables = [toml(value, f"{above}{key}.") for key, value in document.items() if isinstance(value, dict)]
    return "\n".join([f"[{above[:-1]}]" if above else "", *plain, *tables])


def last_line(worker: RunningWorker) -> str:
    return worker.log.splitlines()[-1]


def test_a_worker_that_waits_for_the_store_to_begin_with_stops_when_told_to(site: Site, tmp_path: Path) -> None:
    """There is nothing to lose yet, so nobody waits out the budget; whether the store refuses or says nothing."""
    assert site.server.endpoint_url is not None
    (closed,) = free_ports(1)
    with ExitStack() as held:
        silent = held.enter_context(Proxy(site.server.endpoint_url))
        silent.blackhole()
        workers = [
            held.enter_context(process(site, tmp_path, endpoint))
            for endpoint in (f"http://127.0.0.1:{closed}", through(silent))
        ]
        for worker in workers:
            wait_until(lambda worker=worker: worker.get("/healthz")[0] == 200, "the worker")  # type: ignore[misc]
        wait_until(lambda: "the store does not answer; trying again" in workers[0].log, "patience")
        wait_until(lambda: silent.taken > 0, "a question that is not answered")
        began = time.monotonic()
        assert [worker.stop() for worker in workers] == [0, 0]
        assert time.monotonic() - began < 40, "far below budget and time-out"
        for worker in workers:
            assert any("told to stop before anything began" in line["event"] for line in worker.events)


def test_an_outage_beyond_the_budget_or_the_grace_time_ends_the_process_and_loses_nothing(
    kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path: Path
) -> None:
    """Exit code 1 and one clear line; the next start learns again what was not committed."""
    assert s3.endpoint_url is not None
    sites = [Site(kafka, s3, tiny_model) for _ in range(2)]
    for site in sites:
        site.produce(40)
    with (
        Proxy(s3.endpoint_url) as proxy,
        process(sites[0], tmp_path, through(proxy), store={"retry_budget_s": 2}) as impatient,
        process(sites[1], tmp_path, through(proxy), shutdown={"grace_s": 1.5}) as patient,
    ):
        wait_until(lambda: [site.committed() for site in sites] == [40, 40], "checkpoints")
        proxy.refuse()
        for site in sites:
            site.produce(40)
        assert impatient.process.wait(DEADLINE_S) == 1
        assert last_line(impatient).startswith("streamlearn: s3://")
        assert "does not answer" in last_line(impatient)
        assert "store.retry_budget_s = 2)" in last_line(impatient)

        wait_until(lambda: patient.metric("streamlearn_events_total") == 80, "learning in the outage")
        proxy.blackhole()
        began = time.monotonic()
        assert patient.stop() == 1
        assert time.monotonic() - began < 40, "the grace time, not the budget"
        assert "the store did not take the last checkpoint within 1.5 s" in last_line(patient)
    for site in sites:
        with background(site.config(s3.endpoint_url)) as last:
            wait_until(lambda: site.committed() == 80, "what was not committed")  # noqa: B023 - asked at once
            last.stop()
        site.assert_nothing_lost_or_repeated()
