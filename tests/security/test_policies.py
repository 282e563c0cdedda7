"""The policies of SECURITY.md, as a store reads them: enough for what they are for, and no more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import SecretStr

from streamlearn.config import S3, Store
from streamlearn.ports import ObjectStore, StoreRefused
from streamlearn.registry.open import open_store
from streamlearn.registry.reader import LineageReader
from tests.contract.making import commit, never, writer
from tests.services.s3 import S3Server

DOCUMENT = (Path(__file__).parents[2] / "SECURITY.md").read_text("utf-8")
POLICIES = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture(scope="module")
def bucket(minio: S3Server) -> str:
    return minio.bucket()


def store_with(policy: str, server: S3Server, bucket: str) -> ObjectStore:
    """Return the store as a role with `policy` has it; MinIO gives such roles, by a session token."""
    filled = policy.replace("BUCKET", bucket).replace("PREFIX", "line").replace("LINEAGE", "news")
    roles: Any = boto3.client(
        "sts",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )
    role = "arn:minio:iam:::role/for-a-test"
    given = roles.assume_role(RoleArn=role, RoleSessionName="test", Policy=filled, DurationSeconds=900)["Credentials"]
    settings = S3(
        endpoint_url=server.endpoint_url,
        access_key_id=SecretStr(given["AccessKeyId"]),
        secret_access_key=SecretStr(given["SecretAccessKey"]),
        session_token=SecretStr(given["SessionToken"]),
    )
    return open_store(Store(url=f"s3://{bucket}/line", s3=settings))


@pytest.fixture(scope="module")
def worker(minio: S3Server, bucket: str) -> ObjectStore:
    """The worker's store, on which it has committed and published."""
    store = store_with(POLICIES[0], minio, bucket)
    store.probe()
    lineage = writer(store)
    assert lineage.acquire(never) is not None
    commit(lineage, 0, 5)
    commit(lineage, 5, 10, publish=True)
    lineage.renew()
    lineage.release()
    return store


def test_the_worker_can_do_its_work_with_the_rights_it_is_given(worker: ObjectStore) -> None:
    reader = LineageReader(worker, "news")
    assert [version.manifest.version for version in reader.versions()] == ["v000001"]
    assert len(list(reader.ledger())) == 20


def test_a_stolen_worker_key_deletes_nothing_and_reaches_no_other_lineage(worker: ObjectStore) -> None:
    for key in ("news/head.json", "news/versions/v000001/manifest.json"):
        with pytest.raises(StoreRefused, match="refuses our credentials"):
            worker.delete(key)
        assert worker.get(key).body
    with pytest.raises(StoreRefused, match="refuses our credentials"):
        worker.create("other/head.json", b"{}")


def test_those_who_read_can_read_and_nothing_else(
    worker: ObjectStore, minio: S3Server, bucket: str, tmp_path: Path
) -> None:
    store = store_with(POLICIES[1], minio, bucket)
    reader = LineageReader(store, "news")
    reader.pull(reader.manifest("latest"), tmp_path / "adapter")
    assert len(list(reader.ledger())) == 20
    head = store.get("news/head.json")
    for write in (
        lambda: store.swap("news/head.json", b"{}", head.etag),
        lambda: store.create("news/versions/v000002/manifest.json", b"{}"),
        lambda: store.delete("news/head.json"),
    ):
        with pytest.raises(StoreRefused, match="refuses our credentials"):
            write()
    assert worker.get("news/head.json").body == head.body


def test_every_policy_is_json_for_s3() -> None:
    """The third cannot be tried without AWS; it is at least well formed, and names what is never replaced."""
    assert len(POLICIES) == 3
    once = json.loads(POLICIES[2])["Statement"][0]
    assert {place.rsplit("/", 2)[1] for place in once["Resource"]} == {"checkpoints", "ledger", "versions"}


def test_every_test_and_file_that_the_document_names_exists() -> None:
    """A promise is worth the test behind it."""
    root = Path(__file__).parents[2]
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", DOCUMENT)
    assert len(named) > 15
    for file, name in named:
        assert not name or f"def {name}(" in (root / file).read_text("utf-8"), f"{file}::{name}"
        assert (root / file).is_file(), file
