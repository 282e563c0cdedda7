"""An object store on S3 or what speaks its protocol; the only module that imports boto3.

Conditional writes (`If-None-Match: *`, `If-Match`) carry the whole of our
consistency, so `probe` proves them before anything relies on them. Decides
nothing about patience: that is `retrying`'s.

Credentials that are refused are final, unless boto3 finds others by then:
it renews by itself what says when it expires (roles, instance profiles), but
reads environment and files once.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
from botocore.config import Config as BotoConfig

from streamlearn.config import S3
from streamlearn.config_secrets import without_userinfo
from streamlearn.ports import Conflict, NotFound, StoredObject, StoreRefused, StoreUnavailable, StreamlearnError
from streamlearn.registry.keys import checked, checked_prefix, is_key
from streamlearn.registry.s3_answers import CredentialsRefused, Place, meaning, tls_fault

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_S, _READ_S = 5.0, 60.0
"""Longest wait for a server to take a connection, and for its next byte."""
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
)
_NO_RENEWAL = (
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.MetadataRetrievalError,
    RuntimeError,  # botocore's own for keys that are renewed and still expired
)
_NO_ANSWER = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    ConnectionError,
    TimeoutError,
)


class S3Store:
    """Objects below `s3://bucket/prefix`; safe from several threads.

    Raises:
        StoreRefused: the settings make no client (an unknown profile, a malformed endpoint).
    """

    def __init__(self, bucket: str, prefix: str, settings: S3) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._where = without_userinfo(settings.endpoint_url) if settings.endpoint_url else "AWS"
        self._place = Place(bucket=bucket, url=self.url, endpoint=self._where)
        self._settings = settings
        self._renewing = threading.Lock()
        self._served = False
        with self._telling("the client"):
            self._access = _access(settings)

    @property
    def url(self) -> str:
        """The bucket and prefix as a URL."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str) -> StoredObject:
        """Return the object; raises NotFound."""
        with self._asking(key) as client:
            answer = client.get_object(Bucket=self._bucket, Key=self._key(key))
            return StoredObject(body=answer["Body"].read(), etag=answer["ETag"])

    def create(self, key: str, body: bytes) -> str:
        """Write a new object; raises Conflict when the key exists."""
        try:
            with self._asking(key) as client:
                return client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body, IfNoneMatch="*")["ETag"]
        except NotFound:
            raise StoreRefused(
                f"{self.url}: {self._where} answers 404 to a write: is store.s3.endpoint_url that of an S3 server?"
            ) from None

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """Replace the object that still has `etag`; raises Conflict otherwise."""
        try:
            with self._asking(key) as client:
                return client.put_object(Bucket=self._bucket, Key=self._key(key), Body=body, IfMatch=etag)["ETag"]
        except NotFound as gone:
            raise Conflict(f"{key} is gone") from gone
        except Conflict:
            # SeaweedFS judges the condition before it looks for the bucket: a read tells which it was.
            with suppress(NotFound):
                self.get(key)
            raise

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of every object whose key starts with `prefix`, sorted by key."""
        below = self._prefix + checked_prefix(prefix)
        with self._asking(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below)
            found = [
                (item["Key"].removeprefix(self._prefix), item["Size"])
                for page in pages
                for item in page.get("Contents", ())
            ]
        # Sorted here, as SeaweedFS and S3 Express answer in an order of their own; and only what is ours, as
        # consoles leave markers of folders and others may use the bucket too.
        yield from sorted(item for item in found if is_key(item[0]))

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is no error."""
        try:
            with self._asking(key) as client:
                client.delete_object(Bucket=self._bucket, Key=self._key(key))
        except NotFound:
            return

    def probe(self) -> None:
        """Prove that the store is writable, shows what was written, and honours conditions.

        Raises:
            StoreRefused: it does not.
        """
        key = f"probe/{secrets.token_hex(8)}"
        try:
            self._prove(key)
        except BaseException:
            # The first fault is the one to tell; a delete that fails too adds nothing.
            with suppress(StreamlearnError):
                self.delete(key)
            raise
        self.delete(key)

    def _prove(self, key: str) -> None:
        if _takes(lambda: self.swap(key, b"0", '"00000000000000000000000000000000"')):
            raise self._ignores("If-Match on a missing object")
        etag = self.create(key, b"1")
        if _takes(lambda: self.create(key, b"2")):
            raise self._ignores("If-None-Match")
        self.swap(key, b"3", etag)
        if _takes(lambda: self.swap(key, b"4", etag)):
            raise self._ignores("If-Match")
        if self.get(key).body != b"3" or (key, 1) not in list(self.list(key)):
            raise StoreRefused(f"{self.url}: {self._where} does not show what was just written to it")

    def _ignores(self, condition: str) -> StoreRefused:
        return StoreRefused(
            f"{self.url}: {self._where} ignores {condition}, so two writers could overwrite each other: use "
            "a store with conditional writes (AWS S3, SeaweedFS from 4.48, MinIO from 2024-11, Ceph from Reef)"
        )

    def _key(self, key: str) -> str:
        return self._prefix + checked(key)

    @contextmanager
    def _asking(self, key: str) -> Iterator[S3Client]:
        """Yield the client to ask about `key` with, and turn boto's exceptions into the port's."""
        access = self._access
        try:
            with self._telling(key):
                yield access.client
        except CredentialsRefused as refusal:
            if not self._finds_others(access):
                raise
            raise StoreUnavailable(f"{refusal}; boto3 finds others now, which are tried next") from refusal
        self._served = True

    @contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            raise meaning(self._place, key, code=code, status=status) from error
        except _NO_CREDENTIALS as error:
            raise self._without_credentials(error) from error
        except _NO_RENEWAL as error:
            if not self._served:
                raise self._without_credentials(error) from error
            # What gave us keys until now may be away for a while, as the store may.
            raise StoreUnavailable(f"{self.url}: credentials cannot be renewed: {_one_line(error)}") from error
        except botocore.exceptions.SSLError as error:
            raise tls_fault(self._place, _one_line(error)) from error
        except _NO_ANSWER as error:
            raise StoreUnavailable(f"{self.url}: {self._where} does not answer ({type(error).__name__})") from error
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            # What boto refuses before it asks: a bucket's name, a region, a file of certificates.
            raise StoreRefused(f"{self.url}: {key}: {_one_line(error)}; mend store.url or store.s3") from error

    def _without_credentials(self, error: Exception) -> StoreRefused:
        return StoreRefused(
            f"{self.url}: no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or "
            f"store.s3.access_key_id ({type(error).__name__})"
        )

    def _finds_others(self, refused: _Access) -> bool:
        """Whether there are other credentials than those of `refused`; they are used from here on."""
        with self._renewing:
            if self._access is refused:
                if self._settings.access_key_id is not None:
                    return False
                try:
                    found = _access(self._settings)
                    if found.keys() == refused.keys():
                        return False
                except (botocore.exceptions.BotoCoreError, OSError, RuntimeError, StoreRefused):
                    return False
                self._access = found
            return True


@dataclass(frozen=True, slots=True)
class _Access:
    """A client, and the session that gives it credentials."""

    session: boto3.session.Session
    client: S3Client

    def keys(self) -> object:
        """Return the credentials as they are now, to be compared."""
        credentials = self.session.get_credentials()
        return None if credentials is None else credentials.get_frozen_credentials()


def _takes(write: Callable[[], str]) -> bool:
    try:
        write()
    except Conflict:
        return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _access(settings: S3) -> _Access:
    addressing = settings.addressing
    if addressing == "auto":
        addressing = "path" if settings.endpoint_url else "virtual"
    # S3 has no use for a user in an address, and boto would quote the password.
    endpoint = None if settings.endpoint_url is None else without_userinfo(settings.endpoint_url)
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise StoreRefused(f"store.s3.endpoint_url = {endpoint!r} is no URL: write http://host:port or https://host")
    if settings.ca_bundle and not Path(settings.ca_bundle).is_file():
        raise StoreRefused(f"store.s3.ca_bundle = {settings.ca_bundle!r} is no file")
    session = boto3.session.Session(
        aws_access_key_id=_secret(settings.access_key_id),
        aws_secret_access_key=_secret(settings.secret_access_key),
        aws_session_token=_secret(settings.session_token),
        # Stores beside AWS take any region but want one in the signature.
        region_name=settings.region or ("us-east-1" if settings.endpoint_url else None),
    )
    try:
        client = session.client(
            "s3",
            endpoint_url=endpoint,
            verify=settings.ca_bundle,
            config=BotoConfig(
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                # Readers and the parts of a checkpoint go side by side.
                max_pool_connections=32,
                # Retrying is RetryingStore's, which counts, waits within a budget and settles lost answers.
                retries={"total_max_attempts": 1},
                s3={"addressing_style": addressing},
                # Some stores keep the checksum trailers of boto3 >= 1.36 as part of the object.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except ValueError as error:
        raise StoreRefused(f"store.s3.endpoint_url = {endpoint!r} is no URL: name a host after http://") from error
    return _Access(session, client)


def _secret(value: Any) -> str | None:
    return None if value is None else str(value.get_secret_value())
