"""The published log as objects of an S3-compatible store, which can serve the bucket as it is.

Immutable objects are written on condition that nothing is there (`If-None-Match: *`), and the checkpoint on
condition that its predecessor is still there (`If-Match`), so that an abandoned write that arrives late
changes nothing. A store without conditional writes is read before each write instead. Every object carries
its SHA-256, which the store checks before it keeps anything. The store must be read-after-write consistent,
as S3 and compatible stores usually are.

Needs boto3, the extra `s3`. Credentials come from boto3's usual places (environment, profile, instance
role) or from a file.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from audit_layer.log.store import IMMUTABLE, MAX_BYTES, NEWEST, Headers
from shared.runtime.config import check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import encode_base64

CONNECT_TIMEOUT_S: Final = 3
READ_TIMEOUT_S: Final = 6
ATTEMPTS: Final = 3
"""Attempts per request, with growing pauses; after that the publisher's own, slower retry takes over."""
CONNECTIONS: Final = 32
_MAX_DELETE: Final = 1000
"""Objects per DeleteObjects request."""
_ABSENT: Final = frozenset({"NoSuchKey", "404"})
_PASSING: Final = frozenset({"RequestTimeout", "ConditionalRequestConflict", "OperationAborted"})
"""Refusals with a status below 500 that mean nothing but "again"."""


class S3Store:
    """A `Store` in a bucket, below a prefix. Thread-safe.

    Errors besides those of `Store`: CONFIGURATION when the bucket or the credentials do not permit it.
    """

    writers: Final = 16

    def __init__(
        self,
        bucket: str,
        *,
        region: str,
        prefix: str = "",
        endpoint: str | None = None,
        ca: Path | None = None,
        credentials: Path | None = None,
    ) -> None:
        """Make no connection yet. `endpoint` None is AWS; `ca` is the authority of its certificate (PEM);
        `credentials` has the format of `~/.aws/credentials`. CONFIGURATION when boto3 is missing.
        """
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(region, endpoint, ca, credentials)
        self._conditional: bool | None = None
        """Whether the store honours conditions; None until the first write shows it."""

    def read(self, path: str) -> bytes | None:
        """See `Store.read`."""
        with _asking(f"read {path}"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)
            except self._client.exceptions.ClientError as e:
                if _code(e) in _ABSENT:
                    return None
                raise
            with closing(answer["Body"]) as body:
                data: bytes = body.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CounterfoilError(Code.CORRUPT, f"{path} is larger than {MAX_BYTES} bytes")
        if len(data) != answer.get("ContentLength", len(data)):
            raise _unavailable(f"read {path}", "the answer ended early")
        return data

    def create(self, path: str, data: bytes) -> bool:
        """See `Store.create`."""
        if not self._conditional and self.read(path) is not None:
            return False
        created = self._put(path, data, IMMUTABLE, {"IfNoneMatch": "*"})
        if created and self._conditional is None:
            # The same bytes once more, which is harmless: a store that honours conditions refuses.
            self._conditional = not self._put(path, data, IMMUTABLE, {"IfNoneMatch": "*"})
        return created

    def replace(self, path: str, data: bytes) -> None:
        """See `Store.replace`. UNAVAILABLE when another write intervened."""
        condition = self._follows(path) if self._conditional is not False else {}
        if not self._put(path, data, NEWEST, condition) and self.read(path) != data:
            raise _unavailable(f"replace {path}", "it has changed meanwhile")

    def drop(self, folder: str) -> None:
        """See `Store.drop`."""
        names = self.names(folder)
        while paths := list(islice(names, _MAX_DELETE)):
            with _asking(f"remove {folder}"):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={
                        "Objects": [{"Key": self._prefix + path} for path in paths],
                        "Quiet": True,
                    },
                )
            if answer.get("Errors"):
                raise _unavailable(f"remove {folder}", f"{len(answer['Errors'])} objects stay")

    def names(self, folder: str) -> Iterator[str]:
        """See `Store.names`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/"
        )
        with _asking(f"list {folder}"):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _follows(self, path: str) -> dict[str, str]:
        """Return the condition that `path` still holds what it holds now, even if nothing."""
        with _asking(f"look at {path}"):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
            except self._client.exceptions.ClientError as e:
                if _code(e) in _ABSENT:
                    return {"IfNoneMatch": "*"}
                raise
        return {"IfMatch": answer["ETag"]} if answer.get("ETag") else {}

    def _put(self, path: str, data: bytes, headers: Headers, condition: dict[str, str]) -> bool:
        """Write an object; False when the condition does not hold."""
        if self._conditional is False:
            condition = {}
        with _asking(f"write {path}"):
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + path,
                    Body=data,
                    ContentType=headers.content_type,
                    CacheControl=headers.cache_control,
                    ChecksumSHA256=encode_base64(sha256(data).digest()),
                    **condition,
                )
            except self._client.exceptions.ClientError as e:
                if _code(e) in {"PreconditionFailed", "412"}:
                    return False
                if not condition or _code(e) != "NotImplemented":
                    raise
            else:
                return True
        self._conditional = False
        return self._put(path, data, headers, {})


def _client(region: str, endpoint: str | None, ca: Path | None, credentials: Path | None) -> Any:
    try:
        import boto3  # noqa: PLC0415  # only where the log is published to an object store
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
        from botocore.session import Session  # noqa: PLC0415
    except ImportError as e:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "publishing to an object store needs boto3",
            remedy="Install it: pip install 'counterfoil[s3]'",
        ) from e
    session = Session()
    if credentials is not None:
        check_private(credentials)
        session.set_config_variable("credentials_file", str(credentials))
    try:
        return boto3.Session(botocore_session=session, region_name=region).client(
            "s3",
            endpoint_url=endpoint,
            verify=None if ca is None else str(ca),
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
                # Some stores do not understand what boto3 adds by default.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "auto" if endpoint is None else "path"},
            ),
        )
    except (BotoCoreError, ValueError) as e:
        raise _refused("begin", str(e)) from e


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn boto3's errors into ours: CONFIGURATION when only a person can help, else UNAVAILABLE."""
    from botocore import exceptions as boto  # noqa: PLC0415  # only where there is boto3

    try:
        yield
    except boto.ClientError as e:
        status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        reason = f"{_code(e)[:64]!r}, status {status}"
        if 400 <= status < 500 and status != 429 and _code(e) not in _PASSING:
            raise _refused(what, reason) from e
        raise _unavailable(what, reason) from e
    except (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.ParamValidationError,
    ) as e:
        raise _refused(what, str(e)) from e
    except boto.BotoCoreError as e:
        raise _unavailable(what, type(e).__name__) from e


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refused(what: str, reason: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CONFIGURATION,
        f"the object store does not let this log {what}: {reason}",
        remedy="Check bucket, region and credentials; they must permit s3:GetObject, s3:PutObject,"
        " s3:DeleteObject and s3:ListBucket.",
    )


def _unavailable(what: str, reason: str) -> CounterfoilError:
    return CounterfoilError(
        Code.UNAVAILABLE,
        f"the object store does not {what} now: {reason}",
        retry_after_s=1.0,
    )
