"""The Kafka that tests speak to: the most real one this machine has.

In this order: the cluster of `STREAMLEARN_TEST_KAFKA` (its bootstrap address);
a container of `apache/kafka` where `STREAMLEARN_TEST_CONTAINERS=1` and a Docker
daemon answers; Apache Kafka from `KAFKA_HOME` with the machine's Java, one
KRaft node in a temporary directory; librdkafka's mock cluster, always there.
`parts_used()` says which it was.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.services.containers import docker_answers
from tests.services.ports import free_ports

CONTAINER_IMAGE = os.environ.get("STREAMLEARN_TEST_KAFKA_IMAGE", "apache/kafka:4.3.1")
_START_TIMEOUT_S = 90.0
_CLUSTER_ID = "c3RyZWFtbGVhcm4tdGVzdA"
_BROKER = """\
process.roles={roles}
node.id={node}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={data}/log
num.partitions=4
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
_PAIR = (
    # A dead broker is missed after 3 s instead of 9, and takes nothing with it.
    "broker.session.timeout.ms=3000",
    "broker.heartbeat.interval.ms=500",
    "offsets.topic.replication.factor=2",
    "transaction.state.log.replication.factor=2",
)
_LOGGING = """\
rootLogger.level = WARN
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = [%d] %p %m (%c)%n
"""

_used: list[str] = []


def parts_used() -> tuple[str, ...]:
    """Return in words which brokers this run has spoken to so far."""
    return tuple(_used)


class KafkaService:
    """A running cluster; `real` is False for librdkafka's mock."""

    def __init__(self, address: str, name: str, *, real: bool) -> None:
        self.address = address
        self.name = name
        self.real = real
        _used.append(name)

    def __repr__(self) -> str:
        return f"{self.name} at {self.address}"

    def new_topic(self, stem: str = "test", *, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Create a topic under a name never used before and return the name."""
        name = f"{stem}-{uuid.uuid4().hex[:10]}"
        self.create_topic(name, partitions=partitions, config=config)
        return name

    def create_topic(self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait until the broker serves it."""
        admin = self.admin()
        admin.create_topics([NewTopic(name, partitions, 1, config=dict(config or {}))])[name].result(30)
        _wait_until(lambda: len(admin.list_topics(name, timeout=10).topics[name].partitions) == partitions, name)

    def admin(self) -> AdminClient:
        """Return a client for what a test does to the cluster itself."""
        return AdminClient({"bootstrap.servers": self.address}, logger=quiet_logger())


class Node:
    """One node of Apache Kafka as a child process, which a test may stop and start on its data."""

    def __init__(self, home: Path, data: Path, properties: str) -> None:
        """Format `data` for a node of `properties`; `start` starts it."""
        self._home = home
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        data.mkdir(exist_ok=True)
        self._properties = data / "server.properties"
        self._properties.write_text(properties)
        (data / "log4j2.properties").write_text(_LOGGING)
        formatting = ("format", "--cluster-id", _CLUSTER_ID, "--config", str(self._properties))
        self._java("kafka.tools.StorageTool", *formatting).wait(_START_TIMEOUT_S)

    @property
    def pid(self) -> int | None:
        """The process, None while it is stopped."""
        return self._process.pid if self._process is not None else None

    @property
    def log(self) -> str:
        """What it has written."""
        return (self._data / "broker.log").read_text(errors="replace")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the node; it answers some seconds later."""
        assert self._process is None, "it runs already"
        self._process = self._java("kafka.Kafka", str(self._properties))
        return self._process

    def stop(self, *, kill: bool = False) -> None:
        """End the node: orderly, or as a crash."""
        if (process := self._process) is None:
            return
        self._process = None
        if not kill:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                kill = True
        if kill:
            process.kill()
            process.wait(30)

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        flags = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]
        flags += [f"-Dlog4j2.configurationFile={self._data / 'log4j2.properties'}", "-cp", f"{self._home}/libs/*"]
        with (self._data / "broker.log").open("ab") as log:
            return subprocess.Popen(["java", *flags, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)


class OwnedKafka(KafkaService):
    """Apache Kafka as a child process, which a test may stop and start."""

    def __init__(self, home: Path, data: Path, *, lines: Sequence[str] = ()) -> None:
        """Start a broker.

        Args:
            home: with `libs/`, as a Kafka distribution.
            data: where it keeps everything.
            lines: of its configuration, behind ours; the last of a name counts (`advertised.listeners=…` behind a
                proxy, further listeners).
        """
        port, controller = free_ports(2)
        ours = _BROKER.format(node=1, roles="broker,controller", port=port, controller=controller, data=data)
        self._node = Node(home, data, "\n".join([ours, _combined(port, controller), *lines, ""]))
        super().__init__(f"127.0.0.1:{port}", f"Apache Kafka {_version_in(home)} (KAFKA_HOME)", real=True)
        self.start()

    @property
    def pid(self) -> int | None:
        """The broker's process, None while it is stopped."""
        return self._node.pid

    def start(self) -> None:
        """Start the broker on its data and wait until it answers."""
        process = self._node.start()
        try:
            _wait_for_broker(self.address, alive=lambda: process.poll() is None)
        except TimeoutError as error:
            self.stop()
            raise TimeoutError(f"{error}\n{self._node.log[-2000:]}") from None

    def stop(self, *, kill: bool = False) -> None:
        """End the broker: orderly, or as a crash."""
        self._node.stop(kill=kill)

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start on the same port and data."""
        self.stop(kill=kill)
        self.start()


class OwnedCluster(KafkaService):
    """Two nodes of Apache Kafka: the first is controller and broker, the second a broker that may die."""

    def __init__(self, home: Path, data: Path) -> None:
        controller, *ports = free_ports(3)
        self.nodes: list[Node] = []
        for number, port in enumerate(ports, start=1):
            folder = data / f"node-{number}"
            roles = "broker,controller" if number == 1 else "broker"
            ours = _BROKER.format(node=number, roles=roles, port=port, controller=controller, data=folder)
            listeners = _combined(port, controller) if number == 1 else f"listeners=PLAINTEXT://127.0.0.1:{port}"
            self.nodes.append(Node(home, folder, "\n".join([ours, listeners, *_PAIR, ""])))
        super().__init__(
            ",".join(f"127.0.0.1:{port}" for port in ports),
            f"two nodes of Apache Kafka {_version_in(home)} (KAFKA_HOME)",
            real=True,
        )
        for node in self.nodes:
            node.start()
        admin = self.admin()
        _wait_until(lambda: _brokers(admin) == {1, 2}, "a cluster of two brokers", deadline_s=_START_TIMEOUT_S)

    def replicated_topic(self, stem: str, *, leader: int) -> str:
        """Create a topic of one partition on both brokers, led by node `leader`, and return its name."""
        name = f"{stem}-{uuid.uuid4().hex[:10]}"
        admin, follower = self.admin(), 3 - leader
        admin.create_topics([NewTopic(name, 1, replica_assignment=[[leader, follower]])])[name].result(30)
        _wait_until(lambda: self.leader_of(name) == leader and len(self.in_sync(name)) == 2, name)
        return name

    def leader_of(self, topic: str) -> int:
        """Return the node that leads the topic's partition; -1 while none does."""
        return int(self._partition(topic).leader) if self._partition(topic) else -1

    def in_sync(self, topic: str) -> list[int]:
        """Return the nodes that have all of the topic's partition."""
        return list(self._partition(topic).isrs) if self._partition(topic) else []

    def stop(self) -> None:
        """End both nodes."""
        for node in reversed(self.nodes):
            node.stop(kill=True)

    def _partition(self, topic: str) -> Any:
        return self.admin().list_topics(topic, timeout=10).topics[topic].partitions.get(0)


class MockKafka(KafkaService):
    """librdkafka's mock cluster in this process: topics have 4 partitions, each keeps about 5 MB."""

    PARTITIONS = 4

    def __init__(self) -> None:
        # The cluster belongs to this client, which must outlive every other one.
        self._owner = Producer({"test.mock.num.brokers": 1, "log_level": 3}, logger=quiet_logger())
        broker = next(iter(self._owner.list_topics(timeout=30).brokers.values()))
        super().__init__(f"{broker.host}:{broker.port}", "librdkafka's mock cluster", real=False)

    def create_topic(self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic; the mock gives it 4 partitions whatever was asked for."""
        assert partitions <= self.PARTITIONS, f"the mock has {self.PARTITIONS} partitions a topic"
        _wait_until(lambda: self._owner.list_topics(name, timeout=10).topics[name].error is None, name)


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaService]:
    """The most real Kafka there is; see the module's docstring."""
    if address := os.environ.get("STREAMLEARN_TEST_KAFKA"):
        yield KafkaService(address, f"Apache Kafka at {address} (STREAMLEARN_TEST_KAFKA)", real=True)
    elif docker_answers():
        yield from _container()
    elif (home := os.environ.get("KAFKA_HOME")) and shutil.which("java"):
        with tempfile.TemporaryDirectory(prefix="streamlearn-kafka-") as data:
            service = OwnedKafka(Path(home).resolve(), Path(data))
            try:
                yield service
            finally:
                service.stop()
    else:
        yield MockKafka()


@pytest.fixture(scope="session")
def mock_kafka() -> KafkaService:
    """Always librdkafka's mock cluster."""
    return MockKafka()


def _container() -> Iterator[KafkaService]:
    from testcontainers.core.container import DockerContainer

    (port,) = free_ports(1)
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        # The broker speaks to itself about transactions, and cannot reach the host's port from within.
        "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9092,INTERNAL://127.0.0.1:9094,CONTROLLER://127.0.0.1:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:9094",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }
    container = DockerContainer(CONTAINER_IMAGE)
    for key, value in settings.items():
        container = container.with_env(key, value)
    ports: dict[str, Any] = {"9092/tcp": ("127.0.0.1", port)}  # on loopback only
    container.ports = ports
    with container:
        _wait_for_broker(f"127.0.0.1:{port}", alive=lambda: True)
        yield KafkaService(f"127.0.0.1:{port}", f"Apache Kafka in a container ({CONTAINER_IMAGE})", real=True)


def _combined(port: int, controller: int) -> str:
    return f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"


def _brokers(admin: AdminClient) -> set[int]:
    try:
        return set(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return set()


def _wait_for_broker(address: str, alive: Any) -> None:
    client = AdminClient({"bootstrap.servers": address}, logger=quiet_logger())
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and alive():
        try:
            client.list_topics(timeout=1)
        except KafkaException:
            continue
        return
    raise TimeoutError(f"no broker answers at {address}")


def _wait_until(condition: Any, what: str, *, deadline_s: float = 30.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come to be within {deadline_s:g} s")
        time.sleep(0.02)


def _version_in(home: Path) -> str:
    jar = next((home / "libs").glob("kafka-clients-*.jar"), None)
    return jar.stem.removeprefix("kafka-clients-") if jar else "of unknown version"


def quiet_logger() -> logging.Logger:
    """librdkafka writes to standard error unless it is given a logger."""
    logger = logging.getLogger("streamlearn.tests.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
