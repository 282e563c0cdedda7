"""Servers that ask who we are: Apache Kafka with SASL/SCRAM over TLS, MinIO over TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config as BotoConfig
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from streamlearn.config import S3
from tests.services.kafka import KafkaService, quiet_logger
from tests.services.ports import free_ports
from tests.services.s3 import S3Server, minio_binary, process, wait_until_ready
from tests.services.tls import Authority, Identity
from tests.services.worker import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CLUSTER_ID = "c3RyZWFtbGVhcm4tc2Vj"
_BROKER = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
listener.security.protocol.map=SECURE:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
listeners=SECURE://127.0.0.1:{secure},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SECURE://127.0.0.1:{secure},INTERNAL://127.0.0.1:{internal}
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={data}/log
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={keystore}
listener.name.secure.ssl.truststore.type=PEM
listener.name.secure.ssl.truststore.location={truststore}
listener.name.secure.ssl.client.auth=required
"""
"""Mutual TLS below SASL: a client shows a certificate and a password, and so every property passes through at once."""


class SecureKafka(KafkaService):
    """Apache Kafka that speaks to known users over TLS; the test itself has a door of its own."""

    def __init__(self, secure: str, internal: str, user: str, password: str) -> None:
        super().__init__(internal, "Apache Kafka with SASL_SSL, SCRAM-SHA-512 and client certificates", real=True)
        self.secure = secure
        """Address of the door with locks."""
        self.user = user
        self.password = password


@contextmanager
def run_secure_kafka(authority: Authority, server: Identity, *, user: str, password: str) -> Iterator[SecureKafka]:
    """Run the broker until the block ends; skips where there is no Apache Kafka."""
    home = os.environ.get("KAFKA_HOME")
    if not home or shutil.which("java") is None:
        pytest.skip("SASL and TLS need Apache Kafka: KAFKA_HOME is not set, or there is no java")
    secure, internal, controller = free_ports(3)
    folder = Path(tempfile.mkdtemp(prefix="streamlearn-kafka-tls-"))
    flags = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{home}/libs/*"]
    java = [shutil.which("java") or "java", *flags]
    try:
        properties = folder / "server.properties"
        properties.write_text(
            _BROKER.format(
                secure=secure,
                internal=internal,
                controller=controller,
                data=folder,
                keystore=server.both,
                truststore=authority.bundle,
            )
        )
        format_ = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID, "--config", str(properties)]
        subprocess.run(format_, check=True, capture_output=True, timeout=120)
        with process([*java, "kafka.Kafka", str(properties)], env={}, cwd=folder) as running:
            broker = SecureKafka(f"127.0.0.1:{secure}", f"127.0.0.1:{internal}", user, password)

            def answers() -> bool:
                assert running.poll() is None, (folder / "server.log").read_text()[-3000:]
                try:
                    client = AdminClient({"bootstrap.servers": broker.address}, logger=quiet_logger())
                    client.list_topics(timeout=1)
                except KafkaException:
                    return False
                return True

            wait_until(answers, "Apache Kafka with TLS")
            _make_user(broker)
            yield broker
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_user(broker: SecureKafka) -> None:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    wish = UserScramCredentialUpsertion(broker.user, info, broker.password.encode())
    admin = broker.admin()  # held, or its answer would never come
    admin.alter_user_scram_credentials([wish])[broker.user].result(30)


@dataclass
class TlsServer(S3Server):
    """An S3 endpoint whose certificate only `trust` vouches for."""

    trust: Path = Path("there is none")

    @cached_property
    def _client(self) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            verify=str(self.trust),
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=BotoConfig(connect_timeout=2, read_timeout=30, s3={"addressing_style": "path"}),
        )

    def settings(self) -> S3:
        """Return `[store.s3]` for this server."""
        return super().settings().model_copy(update={"ca_bundle": str(self.trust)})


@contextmanager
def run_tls_minio(
    server: Identity, *, trust: Path, access: str = "test", secret: str = "testtest12"
) -> Iterator[TlsServer]:
    """Run MinIO over TLS until the block ends; skips where its program is not at hand."""
    binary = minio_binary()
    if binary is None:
        pytest.skip("MinIO is not at hand: MINIO_BIN is not set and no `minio` is on PATH")
    port, console = free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="streamlearn-s3-tls-"))
    try:
        certificates = folder / "certs"
        certificates.mkdir()
        (certificates / "public.crt").write_bytes(server.certificate.read_bytes())
        (certificates / "private.key").write_bytes(server.key.read_bytes())
        command = [
            binary, "server", "--quiet", "--address", f"127.0.0.1:{port}",
            "--console-address", f"127.0.0.1:{console}", "--certs-dir", str(certificates), str(folder / "data"),
        ]  # fmt: skip
        named = TlsServer(
            name="MinIO over TLS",
            endpoint_url=f"https://127.0.0.1:{port}",
            access_key=access,
            secret_key=secret,
            trust=trust,
        )
        env = {"MINIO_ROOT_USER": access, "MINIO_ROOT_PASSWORD": secret}
        with process(command, env=env, cwd=folder) as running:
            wait_until_ready(
                named,
                alive=lambda: running.poll() is None,
                log=lambda: (folder / "server.log").read_text(errors="replace"),
            )
            yield named
    finally:
        shutil.rmtree(folder, ignore_errors=True)
