"""Requests to S3, one method each: retried by `POLICY`, with errors as `StorageError`.

A method whose name ends in `once` does not retry, for callers that do so themselves or must check a claim before each
attempt.
"""

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from brainray.callbacks import Sleep
from brainray.errors import Changed, OutOfRange, StorageError, Unavailable, WrongRegion
from brainray.storage.base import changed, too_large
from brainray.storage.retry import RetryPolicy, RetryState

from .clients import Clients, content_md5
from .errors import S3Answer, judge, translated
from .listing import FIELD, Page
from .uris import split

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# A 403 ends a request at once. Reads of images retry it, see `RetryPolicy`, or the image would become an error row.
POLICY = RetryPolicy(refused_attempts=1)
PAGE_KEYS = 1000  # ListObjectsV2 gives no more
DELETE_KEYS = 1000  # DeleteObjects takes no more
WHOLE_BYTES = 32 << 20  # files up to this are read by one request
PART_BYTES = 64 << 20  # larger ones are written in parts of this
_BUFFER_BYTES = 1 << 20

_T = TypeVar("_T")


class Requests:
    """All requests of a process. Safe to share between threads; a pickled copy makes clients of its own."""

    def __init__(self, sleep: Sleep = time.sleep) -> None:
        self.clients = Clients()
        self._sleep = sleep

    def persist(self, request: Callable[[], _T], tries: RetryState | None = None) -> _T:
        """Make a request with retries. `tries` is passed by callers with another policy, or that read the count."""
        return (tries or self.tries()).persist(request, self._sleep)

    def tries(self, policy: RetryPolicy | None = None) -> RetryState:
        return RetryState(policy=policy or POLICY, in_bucket=True)

    @contextmanager
    def translated(self, action: str, uri: str) -> Iterator[None]:
        """Translate the errors of one call of a client. `action` is the permission that the call needs."""
        bucket, _ = split(uri)
        try:
            with translated(partial(self.clients.request, action, uri, bucket)):
                yield
        except WrongRegion as error:
            raise self._with_region(error, action, uri, bucket) from None

    def _with_region(self, error: WrongRegion, action: str, uri: str, bucket: str) -> StorageError:
        """Add the bucket's region to the error, by a request where it is unknown: obstore hides the headers."""
        if "another region" in str(error):
            try:
                self.clients.s3.head_bucket(Bucket=bucket)
            except Exception as exc:  # noqa: BLE001  # if this fails too, the first error is raised
                headers = getattr(exc, "response", {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
                region = headers.get("x-amz-bucket-region")
                answer = S3Answer(status=301, code="PermanentRedirect", region=region)
                return judge(answer, self.clients.request(action, uri, bucket))
        return error

    def once(self, operation: str, action: str, uri: str, **parameters: object) -> dict[str, Any]:
        """Make one request by botocore on the object `uri`, or on its bucket if `Key` is None."""
        bucket, key = split(uri)
        parameters = {"Bucket": bucket, "Key": key, **parameters}
        with self.translated(action, uri):
            call = getattr(self.clients.s3, operation)
            answer: dict[str, Any] = call(**{name: value for name, value in parameters.items() if value is not None})
        return answer

    def get_once(self, uri: str, most_bytes: int | None = None) -> bytes:
        """One GET and no HEAD. A body that ends early raises `read_failed`.

        The body of an object of more than `most_bytes` is not read: the head of the answer has its size.
        """
        bucket, key = split(uri)
        if not _plain(key):  # obstore refuses such keys, or reads another object
            return self._body(uri, most_bytes=most_bytes)
        with self.translated("s3:GetObject", uri):
            import obstore

            found = obstore.get(self.clients.store(bucket), key)
            _check_size(uri, found.meta["size"], most_bytes)
            _check_is_object(uri, found.meta.get("e_tag"), found.attributes.get("Content-Type"))
            return found.bytes().to_bytes()

    def open_once(self, uri: str, version: str | None = None) -> pa.NativeFile:
        """Open an object: by one GET up to `WHOLE_BYTES`, else as a file that is read by ranges."""
        bucket, key = split(uri)
        if not _plain(key):
            return pa.BufferReader(self._body(uri, tag=version))
        with self.translated("s3:GetObject", uri):
            import obstore

            found = obstore.get(self.clients.store(bucket), key)
            size_bytes, tag = found.meta["size"], found.meta["e_tag"]
            _check_is_object(uri, tag, found.attributes.get("Content-Type"))
            _check_version(uri, tag, version)
            if size_bytes <= WHOLE_BYTES:
                return pa.BufferReader(found.bytes().to_bytes())
        del found  # frees its connection
        ranges = RangeFile(partial(self._range, uri, tag), size_bytes)
        return pa.PythonFile(io.BufferedReader(ranges, _BUFFER_BYTES), mode="r")

    def get_range_once(self, uri: str, start: int, length: int, version: str | None) -> bytes:
        """Read a byte range of the listed version by one GET; the ETag is compared for stores that ignore `If-Match`.

        Uses botocore, because obstore refuses a range that comes with status 200, as from rclone.
        """
        match = f'"{version}"' if version else None
        try:
            data = self._body(uri, tag=version, Range=f"bytes={start}-{start + length - 1}", IfMatch=match)
        except Changed:
            raise changed(uri) from None
        if len(data) != length:
            raise StorageError("read_failed", f"{uri}: got {len(data)} of {length} bytes")
        return data

    def get_tail_once(self, uri: str, length: int, version: str | None) -> tuple[bytes, int]:
        """Read the last bytes of the listed version by one GET, and the size of the whole object."""
        match = f'"{version}"' if version else None
        try:
            try:
                data, answer = self._get(uri, version, Range=f"bytes=-{length}", IfMatch=match)
            except OutOfRange:  # rclone refuses a range that is longer than the object
                data, answer = self._get(uri, version, IfMatch=match)
        except Changed:
            raise changed(uri) from None
        size = str(answer.get("ContentRange", "")).rpartition("/")[2]
        size_bytes = int(size) if size.isdigit() else len(data)
        if len(data) < min(length, size_bytes):
            raise StorageError("read_failed", f"{uri}: got {len(data)} of {length} bytes")
        return data, size_bytes

    def _range(self, uri: str, version: str | None, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of the version that was opened; `StorageError` for another version."""
        data = self.persist(partial(self._body, uri, Range=f"bytes={start}-{end - 1}", IfMatch=version))
        if len(data) != end - start:
            raise StorageError("read_failed", f"{uri}: got {len(data)} of {end - start} bytes")
        return data

    def _body(self, uri: str, tag: str | None = None, *, most_bytes: int | None = None, **parameters: object) -> bytes:
        return self._get(uri, tag, most_bytes=most_bytes, **parameters)[0]

    def _get(
        self, uri: str, tag: str | None, *, most_bytes: int | None = None, **parameters: object
    ) -> tuple[bytes, dict[str, Any]]:
        """The body and the rest of the answer. Raises `StorageError` where the ETag is not `tag`."""
        answer = self.once("get_object", "s3:GetObject", uri, **parameters)
        try:
            _check_is_object(uri, answer.get("ETag"), answer.get("ContentType"))
            _check_version(uri, answer.get("ETag"), tag)
            _check_size(uri, answer.get("ContentLength", 0), most_bytes)
        except StorageError:
            answer["Body"].close()  # with its connection, on which the rest of the body would follow
            raise
        with self.translated("s3:GetObject", uri):
            return answer["Body"].read(), answer

    def head_once(self, uri: str) -> dict[str, Any] | None:
        """Size, ETag and metadata of an object; None if it does not exist."""
        try:
            return self.once("head_object", "s3:GetObject", uri)
        except StorageError as exc:
            if exc.reason == "not_found":
                return None
            raise

    def head(self, uri: str) -> dict[str, Any] | None:
        return self.persist(partial(self.head_once, uri))

    def page(
        self,
        uri: str,
        prefix: str,
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> Page:
        """Up to 1000 keys with a prefix, of the bucket in which `uri` lies."""
        fetch = partial(self.page_once, uri, prefix, delimiter=delimiter, after=after, token=token)
        return self.persist(fetch, self.tries(policy))

    def page_once(
        self, uri: str, prefix: str, *, delimiter: str = "", after: str = "", token: str | None = None
    ) -> Page:
        parameters = {"Prefix": prefix, "Delimiter": delimiter or None, "StartAfter": after or None}
        return self._list_once(uri, MaxKeys=PAGE_KEYS, ContinuationToken=token, **parameters)

    def first_key(self, uri: str, prefix: str) -> str | None:
        """The first key with a prefix (the prefix itself if it is an object); None if there is none."""
        found = self.persist(partial(self._list_once, uri, Prefix=prefix, MaxKeys=1)).entries
        return found[0].key if found else None

    def keys(self, folder: str) -> list[str]:
        """The keys in a folder of at most 1,000, sorted, without the folder's prefix."""
        prefix = split(folder)[1] + "/"
        return [listed.key[len(prefix) :] for listed in self.page(folder, prefix).entries]

    def _list_once(self, uri: str, **parameters: object) -> Page:
        """One page. Where it has archived objects, it is asked for again, with those that are restored for now.

        That takes a header that not every store knows, so it is sent for those pages only.
        """
        page = self._page_once(uri, **parameters)
        if not any(entry.archived for entry in page.entries):
            return page
        try:
            return self._page_once(uri, OptionalObjectAttributes=["RestoreStatus"], **parameters)
        except StorageError:
            if self.clients.is_aws:
                raise
            return page

    def _page_once(self, uri: str, **parameters: object) -> Page:
        page: Page = self.once("list_objects_v2", "s3:ListBucket", uri, Key=None, **parameters)[FIELD]
        return page

    def put_once(self, uri: str, data: bytes, **parameters: object) -> None:
        """One PUT that the store checks by MD5. `IfMatch` and `IfNoneMatch` raise `Changed` where they do not hold."""
        self.once("put_object", "s3:PutObject", uri, Body=data, ContentMD5=content_md5(data), **parameters)

    def put(self, uri: str, data: bytes) -> None:
        self.persist(partial(self.put_once, uri, data))

    def upload(self, uri: str, data: bytes) -> dict[str, Any]:
        """Send a large file in parts, which `complete_once` makes one object. Returns the arguments for that."""
        request = partial(self.once, action="s3:PutObject", uri=uri)
        upload = {"UploadId": self.persist(lambda: request("create_multipart_upload"))["UploadId"]}
        parts = []
        try:
            for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
                part = data[start : start + PART_BYTES]
                send = partial(
                    request, "upload_part", PartNumber=number, Body=part, ContentMD5=content_md5(part), **upload
                )
                parts.append({"PartNumber": number, "ETag": self.persist(send)["ETag"]})
        except BaseException:
            with suppress(StorageError):  # else a life-cycle rule of the bucket must remove it
                self.once("abort_multipart_upload", "s3:AbortMultipartUpload", uri, **upload)
            raise
        return {**upload, "MultipartUpload": {"Parts": parts}}

    def complete_once(self, uri: str, upload: dict[str, Any]) -> None:
        """Complete an upload. A missing one counts as completed if the object has its ETag: the answer was lost."""
        try:
            self.once("complete_multipart_upload", "s3:PutObject", uri, **upload)
        except StorageError as exc:
            found = self.head_once(uri) if exc.reason == "not_found" else None
            if found is None or found["ETag"].strip('"') != _etag_of_parts(upload["MultipartUpload"]["Parts"]):
                raise

    def remove_once(self, uri: str) -> None:
        """Delete an object. A missing one is no error."""
        with suppress_not_found():
            self.once("delete_object", "s3:DeleteObject", uri)

    def remove(self, uri: str) -> None:
        self.persist(partial(self.remove_once, uri))

    def remove_many_once(self, uri: str, keys: list[str]) -> None:
        """Delete up to `DELETE_KEYS` keys of the bucket in which `uri` lies. Missing ones are no error."""
        batch = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = self.once("delete_objects", "s3:DeleteObject", uri, Key=None, Delete=batch)
        for error in answer.get("Errors", []):
            if error.get("Code") != "NoSuchKey":
                request = self.clients.request("s3:DeleteObject", uri, split(uri)[0])
                raise judge(S3Answer(status=0, code=str(error.get("Code", ""))), request)


class RangeFile(io.RawIOBase):
    """A large object as a file. Each read is one request."""

    def __init__(self, read_range: Callable[[int, int], bytes], size_bytes: int) -> None:
        self._read_range = read_range
        self._size_bytes = size_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size_bytes)
        if end <= self._at:
            return 0
        data = self._read_range(self._at, end)
        view[: len(data)] = data
        self._at = end
        return len(data)


def _check_is_object(uri: str, tag: str | None, content_type: object) -> None:
    """Raise `Unavailable` for a web page without an ETag in place of an object. Proxies give it before a login.

    A store gives an ETag with every object; functions in front of one may leave it out.
    """
    if not tag and str(content_type).lower().startswith("text/html"):
        raise Unavailable("read_failed", f"{uri}: a web page came in its place, as proxies give before a login")


def _check_version(uri: str, tag: str | None, version: str | None) -> None:
    if version and tag and tag.strip('"') != version:
        raise changed(uri)


def _check_size(uri: str, size_bytes: int, most_bytes: int | None) -> None:
    if most_bytes is not None and size_bytes > most_bytes:
        raise too_large(uri, most_bytes)


@contextmanager
def suppress_not_found() -> Iterator[None]:
    try:
        yield
    except StorageError as exc:
        if exc.reason != "not_found":
            raise


def _etag_of_parts(parts: list[dict[str, Any]]) -> str | None:
    """The ETag that S3 derives from the MD5 of the parts; None where part tags are no MD5 (KMS encryption)."""
    try:
        digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    except ValueError:
        return None
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _plain(key: str) -> bool:
    """Whether obstore uses a key unchanged: it trims "/", and refuses empty parts, dots and control characters."""
    parts = key.split("/")
    return key.isprintable() and all(part not in ("", ".", "..") for part in parts)
