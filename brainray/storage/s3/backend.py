"""The storage backend for S3 buckets: `s3://bucket/key`.

A folder is a common prefix of keys that ends with "/": `s3://bucket/a` means `a/…` or the object `a`, never `a-2/…`.
S3 writes objects atomically, but has no rename, by which the local backend shuts out former holders; see
`S3Objects._guarded` for the substitute. Knows no lease, only claimed folders.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from brainray.callbacks import Sleep
from brainray.errors import BadRequest, Changed, OutputHeld, StorageError
from brainray.storage.base import CLAIM_FILE, EVERY_FOLDER, FileInfo, FolderRules, Service
from brainray.storage.retry import HEARTBEAT_POLICY, RetryPolicy

from . import uris
from .conditional import SETTLE_S, Probe, ballot, write_first
from .listing import ARCHIVES, Page, list_objects
from .requests import DELETE_KEYS, PART_BYTES, Requests
from .uris import join, parent, split

_CHECK_HOLDS_S = 10.0  # a change is sent within this time after the check of the claim, or the claim is checked again
_HIDDEN_S = (0.2, 0.5, 1.0)  # waits before a missing claim is looked up again
_TAKEN_OVER = "another run has taken over this output, so this one stopped before writing"


class S3Objects:
    """The `StorageBackend` for S3. Each process makes its own clients when they are first needed.

    `settle_s` is the time that a claim waits on stores without conditional writes, see `conditional.ballot`.
    """

    def __init__(self, *, settle_s: float = SETTLE_S, sleep: Sleep = time.sleep) -> None:
        self._requests = Requests(sleep)
        self._probe = Probe()
        self._settle_s = settle_s
        self._sleep = sleep

    def __reduce__(self) -> tuple[Callable[..., "S3Objects"], tuple[()]]:
        return partial(type(self), settle_s=self._settle_s, sleep=self._sleep), ()

    def normalise(self, uri: str) -> str:
        return uris.normalise(uri)

    def normalise_listed(self, uri: str) -> str:
        return uris.exact(uri)

    def resolve_listed(self, folder: str, path: str) -> str:
        return uris.resolve(folder, path)

    def name_of(self, uri: str) -> str:
        return uris.name_of(uri)

    def exists(self, uri: str) -> bool:
        """Whether an object or a folder exists. Mostly one request, for the first key with this prefix."""
        _, key = split(uri)
        first = self._requests.first_key(uri, key)
        if first is None:
            return not key
        return first == key or first.startswith(f"{key}/") or self.is_folder(uri)

    def is_folder(self, uri: str) -> bool:
        """A bucket is a folder even while it is empty."""
        prefix = _prefix(uri)
        return self._requests.first_key(uri, prefix) is not None or not prefix

    def file_in_the_way(self, uri: str) -> str | None:
        """An object of that very key. Keys may lie below an object."""
        return uri if self.exists(uri) and not self.is_folder(uri) else None

    def read_bytes(self, uri: str, most_bytes: int | None = None) -> bytes:
        return self._requests.persist(partial(self._requests.get_once, uri, most_bytes))

    def read_once(self, uri: str, most_bytes: int | None = None) -> bytes:
        return self._requests.get_once(uri, most_bytes)

    def read_range(self, uri: str, start: int, length: int, version: str | None) -> bytes:
        return self._requests.get_range_once(uri, start, length, version)

    def read_tail(self, uri: str, length: int, version: str | None) -> tuple[bytes, int]:
        return self._requests.get_tail_once(uri, length, version)

    def open_seekable(self, uri: str, version: str | None = None) -> pa.NativeFile:
        """Open by one GET up to 32 MiB, as most parts and manifests are; larger objects are read by ranges."""
        return self._requests.persist(partial(self._requests.open_once, uri, version))

    def stat(self, uri: str) -> FileInfo | None:
        """Nothing about an object; a bucket itself is a folder, hence `special`."""
        return None if split(uri)[1] else FileInfo(uri=uri, folders=(), size_bytes=0, version="", special=True)

    def check_access(self, uri: str, *, write: bool) -> None:
        """Probe an object that does not exist, for s3:GetObject, or for s3:PutObject and s3:DeleteObject.

        Without s3:ListBucket, a store answers that the missing object is forbidden, also where reading is allowed.
        """
        probe = join(uri, f".brainray-access-{secrets.token_hex(8)}")
        if write:
            self._requests.put(probe, b"")
            self._requests.remove(probe)
            return
        try:
            self._requests.persist(partial(self._requests.get_once, probe))
        except StorageError as exc:
            if exc.reason != "not_found":
                raise

    def describe_service(self, uri: str) -> Service | None:
        """Ask with HEAD on the bucket. A denied request has the time in its headers, too."""
        clients = self._requests.clients
        bucket, _ = split(uri)
        with self._requests.translated("s3:ListBucket", uri):
            from botocore.credentials import RefreshableCredentials
            from botocore.exceptions import ClientError

            try:
                answer = clients.s3.head_bucket(Bucket=bucket)
            except ClientError as exc:
                answer = exc.response
            source = None if clients.settings.unsigned else clients.session.get_credentials()
            date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
            return Service(
                host=clients.request("s3:ListBucket", uri, bucket).host,
                region=clients.region,
                credentials=str(source.method) if source else "none",
                renewed=source is None or source.token is None or isinstance(source, RefreshableCredentials),
                settings=clients.settings.described,
                time_s=parsedate_to_datetime(date).timestamp() if date else None,
            )

    def unsupported_conditions(self, uri: str) -> tuple[str, ...]:
        honoured = self._probe.ask(self._requests, uri)
        wanted = {"If-None-Match": honoured.if_none_match, "If-Match": honoured.if_match}
        return tuple(name for name, held in wanted.items() if not held)

    def list_names(self, uri: str, policy: RetryPolicy | None = None) -> list[str]:
        return self._names(uri, partial(self._requests.page, policy=policy))

    def _names(self, uri: str, fetch: Callable[..., Page]) -> list[str]:
        prefix = _prefix(uri)
        names: set[str] = set()
        token: str | None = None
        while True:
            page = fetch(uri, prefix, delimiter="/", token=token)
            names |= {listed.key[len(prefix) :].rstrip("/") for listed in page.entries}
            token = page.next_token
            if token is None:
                return sorted(name for name in names if name and not name.startswith("."))

    def list_files(self, uri: str, rules: FolderRules = EVERY_FOLDER) -> Iterator[FileInfo]:
        """Every object below a folder in the order of keys, or the one object. Empty "folder markers" are left out."""
        bucket, key = split(uri)
        prefix = _prefix(uri)
        empty = True
        for listed in list_objects(partial(self._requests.page, uri), prefix):
            empty = False
            if listed.size_bytes or not listed.key.endswith("/"):
                yield FileInfo(
                    uri=f"s3://{bucket}/{listed.key}",
                    folders=tuple(listed.key[len(prefix) :].split("/")[:-1]),
                    size_bytes=listed.size_bytes,
                    version=listed.version or "",
                    archived=listed.archived,
                )
        if empty and key:
            yield self._file(uri)

    def _file(self, uri: str) -> FileInfo:
        found = self._requests.head(uri)
        if found is None:
            raise StorageError("not_found", f"{uri}: there is no such object or folder")
        archived = found.get("StorageClass") if _is_archived(found) else None
        version = found["ETag"].strip('"')
        return FileInfo(uri=uri, folders=(), size_bytes=found["ContentLength"], version=version, archived=archived)

    def write_bytes(self, uri: str, data: bytes, staging: str | None) -> None:
        """Write by one PUT with its MD5; above 64 MiB by parts, which the store joins to an object at once."""
        change: Callable[[], object] = partial(self._requests.put_once, uri, data)
        if len(data) > PART_BYTES:
            upload = self._requests.upload(uri, data)
            change = partial(self._requests.complete_once, uri, upload)
        self._change(change, staging)

    def copy(self, source: str, target: str, staging: str | None) -> None:
        """Copy within the store: no bytes pass through this process."""
        bucket, key = split(source)
        origin = {"Bucket": bucket, "Key": key}
        try:
            self._change(
                partial(self._requests.once, "copy_object", "s3:PutObject", target, CopySource=origin), staging
            )
        except StorageError as exc:
            if exc.reason == "not_found" and self._requests.head(source) is None:
                raise StorageError("not_found", f"{source}: there is no such object") from None
            raise

    def delete(self, uri: str, staging: str | None) -> None:
        self._change(partial(self._requests.remove_once, uri), staging)

    def delete_tree(self, uri: str, staging: str | None, first: Sequence[str] = ()) -> None:
        """Delete up to 1,000 objects per request."""
        self._delete_below(uri, first, staging)

    def claim(self, uri: str, data: bytes) -> bool:
        """Claim by `If-None-Match`; on a store without it by a ballot, see `conditional.ballot` for its risk."""
        if self._probe.ask(self._requests, parent(uri)).if_none_match:
            return write_first(self._requests, join(uri, CLAIM_FILE), data)
        return ballot(self._requests, uri, CLAIM_FILE, data, settle_s=self._settle_s, sleep=self._sleep)

    def renew(self, uri: str, data: bytes) -> None:
        """The heartbeat. It must not bring a revoked claim back, for then the former holder's changes would pass again.

        On a store without `If-Match` it may, for the time of a few requests: the claims beside it are listed, and where
        a newer one is among them the record is removed again. Gives up early, see `HEARTBEAT_POLICY`.
        """
        conditional = self._probe.ask(self._requests, parent(uri)).if_match
        renew = partial(self._renew_once, uri, data, conditional=conditional)
        self._requests.persist(renew, self._requests.tries(HEARTBEAT_POLICY))
        if conditional:
            return
        if self._requests.persist(partial(self._is_followed, uri), self._requests.tries(HEARTBEAT_POLICY)):
            self._requests.remove(join(uri, CLAIM_FILE))
            raise OutputHeld(_TAKEN_OVER)

    def revoke(self, uri: str) -> None:
        """Delete the record first: from then on every change staged here is refused."""
        self._delete_below(uri, (CLAIM_FILE,), None)

    def create(self, uri: str, staging: str | None) -> bool:
        """Create by `If-None-Match`. On a store without it, two calls within one request's time may both succeed."""
        if staging is not None:
            self._requests.persist(partial(self._claim_version, staging))
        if self._probe.ask(self._requests, parent(uri)).if_none_match:
            return write_first(self._requests, uri, b"")
        if self._requests.head(uri) is not None:
            return False
        self._requests.put(uri, b"")
        return True

    def _change(self, change: Callable[[], object], staging: str | None) -> None:
        """Check the claim, then make the change; retry both together."""

        def guarded() -> None:
            with self._guarded(staging):
                change()

        self._requests.persist(guarded)

    @contextmanager
    def _guarded(self, staging: str | None) -> Iterator[None]:
        """Refuse a change whose writer has lost its claim.

        S3 cannot make a write conditional on another object, so a revocation between the check and the arrival of the
        change goes unnoticed. The window is one request wide: a change that would be sent more than `_CHECK_HOLDS_S`
        after the check began, as when the process was stopped in between, is not sent; the claim is checked again. The
        remaining risk is a process that is stopped between that last check of the clock and the socket, for at most the
        15 minutes after which AWS refuses a signature. A late write is a whole object that its writer meant to write.
        """
        if staging is None:
            yield
            return
        with self._requests.clients.sent_within(_CHECK_HOLDS_S):
            self._claim_version(staging)
            yield

    def _claim_version(self, staging: str) -> str:
        """The ETag of the claim's record. Raises `OutputHeld` where the claim is gone.

        Some stores (rclone) hide an object for a moment while a heartbeat overwrites it: without a newer claim beside
        it, the record is requested again.
        """
        for pause_s in (*_HIDDEN_S, None):
            found = self._requests.head_once(join(staging, CLAIM_FILE))
            if found is not None:
                return str(found["ETag"])
            if pause_s is None or self._is_followed(staging):
                break
            self._sleep(pause_s)
        raise OutputHeld(_TAKEN_OVER)

    def _is_followed(self, staging: str) -> bool:
        """Whether a newer claim exists. Tried once, for the caller retries."""
        names = self._names(parent(staging), self._requests.page_once)
        return any(name > uris.name_of(staging) for name in names)

    def _renew_once(self, staging: str, data: bytes, *, conditional: bool) -> None:
        record = join(staging, CLAIM_FILE)
        with self._requests.clients.sent_within(_CHECK_HOLDS_S):
            version = self._claim_version(staging)
            try:
                self._requests.put_once(record, data, IfMatch=version if conditional else None)
            except Changed as exc:  # gone, or renewed by another thread of this holder: checked again
                raise StorageError(exc.reason, str(exc)) from None
            except StorageError as exc:
                if exc.reason == "not_found":
                    raise OutputHeld(_TAKEN_OVER) from None
                raise

    def _delete_below(self, uri: str, first: Sequence[str], staging: str | None) -> None:
        _, key = split(uri)
        if not key.strip("/"):
            raise BadRequest(f"{uri}: brainray empties no whole bucket; give a folder in it")
        prefix = _prefix(uri)
        if first:
            self._remove_keys(uri, [prefix + name for name in first], staging)
        keys = (listed.key for listed in list_objects(partial(self._requests.page, uri), prefix))
        while batch := list(islice(keys, DELETE_KEYS)):
            self._remove_keys(uri, batch, staging)

    def _remove_keys(self, uri: str, keys: list[str], staging: str | None) -> None:
        self._change(partial(self._requests.remove_many_once, uri, keys), staging)


def _is_archived(head: dict[str, Any]) -> bool:
    """Whether an object must be restored before it can be read, by the answer to HEAD."""
    in_archive = head.get("StorageClass") in ARCHIVES or "ArchiveStatus" in head
    return in_archive and "expiry-date" not in head.get("Restore", "")


def _prefix(uri: str) -> str:
    """The prefix of all keys in a folder; "" for the bucket."""
    key = split(uri)[1].rstrip("/")
    return f"{key}/" if key else ""
