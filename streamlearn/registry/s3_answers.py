"""What an S3 server's refusal means to us; knows codes, not the library that carries them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamlearn.ports import Conflict, NotFound, StoreRefused, StoreUnavailable, StreamlearnError

_TRANSIENT = {
    "InternalError", "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "Throttling",
    "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "TooManyRequests", "TooManyRequestsException",
    "BandwidthLimitExceeded", "ConditionalRequestConflict", "OperationAborted", "IncompleteBody", "BadDigest",
    "XMinioServerNotInitialized", "ServerBusy", "RequestTimeTooSkewed", "408", "409", "429",
}  # fmt: skip
_CREDENTIALS = {
    "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "ExpiredTokenException", "TokenRefreshRequired", "401", "403",
}  # fmt: skip
_SERVER_FAULT = re.compile("5[0-9][0-9]")
_FULL = {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "507"}


class CredentialsRefused(StoreRefused):
    """The key, its signature or its rights; another key may do better."""


_TLS = {
    r"certificate (has expired|is not yet valid)": (
        "the certificate of {endpoint} {0}, by this machine's clock: renew it, or set the clock"
    ),
    r"doesn't match|Hostname mismatch|IP address mismatch": (
        "the certificate of {endpoint} is another host's: name that host in store.s3.endpoint_url, or give the server "
        "a certificate for this one"
    ),
    r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|HTTP_REQUEST": (
        "{endpoint} speaks no TLS: write http:// in store.s3.endpoint_url, or mend its port"
    ),
    r"\[X509": "store.s3.ca_bundle holds no certificate that can be read: give it PEM text",
    r"CERTIFICATE_VERIFY_FAILED|certificate verify failed": (
        "the certificate of {endpoint} is not trusted; name its authority in store.s3.ca_bundle"
    ),
}
"""What OpenSSL and urllib3 say of a handshake that will fail the next time too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where we asked, in the words of a message."""

    bucket: str
    url: str
    endpoint: str

    @property
    def both(self) -> str:
        """Which store, at which server."""
        return f"{self.url}: {self.endpoint}"


def meaning(place: Place, key: str, *, code: str, status: str) -> StreamlearnError:
    """Return the port's exception for an answer with error `code` and HTTP `status`.

    The code counts first: an error in the body of a 200 arrives with status 500.
    """
    return (
        _of(place, key, code, code or status)
        or _of(place, key, status, code or status)
        or StoreRefused(f"{place.both} refuses {key}: {code} (HTTP {status})")
    )


def tls_fault(place: Place, said: str) -> StreamlearnError:
    """Return the port's exception for a TLS channel that did not come about, or broke, of which OpenSSL said `said`.

    What is no fault of certificate or address is an outage: a proxy that restarts cuts handshakes short too.
    """
    for pattern, meant in _TLS.items():
        if found := re.search(pattern, said):
            return StoreRefused(f"{place.url}: {meant.format(*found.groups(), endpoint=place.endpoint)}")
    return StoreUnavailable(f"{place.both} breaks off TLS")


def _of(place: Place, key: str, name: str, said: str) -> StreamlearnError | None:
    if name in {"PreconditionFailed", "412"}:
        return Conflict(f"{key} exists already, or is no longer what was read")
    if name in {"NoSuchKey", "404"}:
        return NotFound(f"no object {key} in {place.url}")
    if name in _CREDENTIALS:
        return CredentialsRefused(
            f"{place.both} refuses our credentials: check the key, its expiry and its rights to get, put, list and "
            f"delete below this prefix ({said})"
        )
    if why := _refusal(place, name):
        return StoreRefused(f"{why} ({said})")
    if name in _TRANSIENT or _SERVER_FAULT.fullmatch(name):
        mend = ": set this machine's clock" if name == "RequestTimeTooSkewed" else ""
        return StoreUnavailable(f"{place.both} answers {said}{mend}")
    return None


def _refusal(place: Place, name: str) -> str | None:
    if name == "NoSuchBucket":
        return f"bucket {place.bucket!r} does not exist at {place.endpoint}: create it, or mend store.url"
    if name in _FULL:
        return f"{place.both} has no space left"
    if name in {"NotImplemented", "501"}:
        return f"{place.both} does not implement what we ask, conditional writes most likely: use a store that does"
    return None
