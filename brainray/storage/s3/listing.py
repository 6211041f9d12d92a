"""Lists all objects below a prefix in the order of their keys, several spans of the key space at once.

First the listing (`list_objects`), which divides the key space and merges the spans in order, then the parser of its
answers (`parse_page`). Memory is bounded: keys that are listed ahead wait compressed (29 kB for 1,000 keys), up to
`_AHEAD_BYTES`. Makes no request of its own: a `FetchPage` is passed in.
"""

import pickle
import threading
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from string import digits
from typing import Any, Protocol
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from brainray.errors import Unavailable

FIELD = "Page"  # key of the parsed page in botocore's answer
LISTERS = 8  # spans that are listed at once
_AHEAD = 2 * LISTERS  # spans queued beyond the one that is handed out
_AHEAD_BYTES = 64 << 20  # about two million keys
_TURN_BYTES = 4 << 20  # reserved for the span that is handed out, whatever the others hold
_NARROW = 8  # with fewer folders than this, their folders are listed too, to find more spans
_DEEP = 3  # levels of folders that are listed to find spans
_WIDE = 64  # with more folders in a page than this, several form one span, for each may be small
_SHARES = 16  # spans that a page of more than `_WIDE` folders gives
_FLAT_PAGES = 16  # pages of a folder without folders that are listed before the rest is divided
_FEW = 8  # with fewer spans than this, each is divided once more
_LAST = chr(0x10FFFF)
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # storage classes; a listing does not show the tiers of INTELLIGENT_TIERING
_PRINTABLE = tuple(chr(code) for code in range(0x21, 0x7F) if chr(code) != "/")
_ALPHANUMERIC = tuple(char for char in _PRINTABLE if char.isalnum())


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedKey:
    """An object; or a folder, which has no version and a key that ends with the delimiter."""

    key: str
    size_bytes: int = 0
    version: str | None = None
    archived: str | None = None  # the storage class of an object that must be restored before it can be read

    @property
    def is_folder(self) -> bool:
        return self.version is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One answer to ListObjectsV2: objects and folders together, in the order of their keys' UTF-8 bytes."""

    entries: list[ListedKey]
    next_token: str | None


class FetchPage(Protocol):
    """Makes one request for up to 1,000 keys, with retries."""

    def __call__(self, prefix: str, *, delimiter: str = "", after: str = "", token: str | None = None) -> Page: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """The keys with a prefix after `after` and up to `upto`. Either may be a folder, which stands for all below it."""

    prefix: str
    after: str = ""
    upto: str | None = None


class _Tokens:
    """The continuation tokens of one chain of pages. A store that gives one or a page again is listed for ever."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._hashes: set[int] = set()
        self._first: str | None = None  # key of the page before

    def next_of(self, page: Page) -> str | None:
        """The token of the page after this one; None after the last. Raises `Unavailable` for what was given before."""
        first, token = page.entries[0].key if page.entries else None, page.next_token
        if first is not None and first == self._first:
            raise self._stalled("page")
        if token is not None and hash(token) in self._hashes:
            raise self._stalled("token")
        self._first = first
        self._hashes.add(hash(token))
        return token

    def _stalled(self, what: str) -> Unavailable:
        words = f"the store does not go on with its listing of {self._prefix!r}: it gave one {what} twice"
        return Unavailable("read_failed", f"{words}; if it stays so, tell the operator of the store")


def list_objects(fetch: FetchPage, prefix: str) -> Iterator[ListedKey]:
    """Every object whose key starts with `prefix`, in the order of the keys."""
    parts = _split(fetch, prefix, _DEEP)
    budget = _MemoryBudget()
    waiting: deque[list[ListedKey] | _SpanQueue] = deque()
    pool = ThreadPoolExecutor(LISTERS, thread_name_prefix="s3 listing")
    try:
        while True:
            while len(waiting) < _AHEAD and (part := next(parts, None)) is not None:
                if isinstance(part, _Span):
                    queue = _SpanQueue(budget)
                    pool.submit(_fill, queue, fetch, part)
                    waiting.append(queue)
                else:
                    waiting.append(part)
            if not waiting:
                return
            first = waiting.popleft()
            yield from first if isinstance(first, list) else first.take()
    finally:
        budget.close()
        pool.shutdown(wait=False, cancel_futures=True)


def _split(fetch: FetchPage, prefix: str, levels: int) -> Iterator[_Span | list[ListedKey]]:
    """Divide the key space, in order, into spans to be listed and objects that the folder pages held already."""
    token: str | None = None
    tokens, after = _Tokens(prefix), ""
    while True:
        page = fetch(prefix, delimiter="/", token=token)
        folders = sum(entry.is_folder for entry in page.entries)
        if folders == 0 and page.next_token and token is None:
            if levels < _DEEP:
                yield _Span(prefix=prefix)  # many files: listed in parallel with other spans
            else:
                yield from _flat(fetch, prefix, page)
            return
        if folders > _WIDE:
            yield from _shares(prefix, after, page.entries)
        else:
            descend = levels > 0 and folders < _NARROW
            yield from _each(fetch, page.entries, levels - 1 if descend else None)
        token = tokens.next_of(page)
        if token is None:
            return
        after = page.entries[-1].key if page.entries else after


def _flat(fetch: FetchPage, prefix: str, page: Page) -> Iterator[_Span | list[ListedKey]]:
    """Divide a folder of files only: its first pages, then spans between guessed keys. A bad guess costs a request."""
    tokens, after = _Tokens(prefix), ""
    for number in count(1):
        yield page.entries
        token = tokens.next_of(page)
        if token is None:
            return
        if not page.entries:  # as some stores answer; `_pages` goes on by tokens
            yield _Span(prefix=prefix, after=after)
            return
        after = page.entries[-1].key
        if number >= _FLAT_PAGES and not after.endswith("/"):  # such a key would stand for a folder
            break
        page = fetch(prefix, after=after) if number == 1 else fetch(prefix, token=token)
    for upto in _guesses(fetch, prefix, after):
        yield _Span(prefix=prefix, after=after, upto=upto)
        after = upto
    yield _Span(prefix=prefix, after=after)


def _guesses(fetch: FetchPage, prefix: str, after: str) -> list[str]:
    """Texts between `after` and the greatest key that divide evenly if names are numbered or random."""

    def is_followed(text: str) -> bool:
        return bool(fetch(prefix, after=text).entries)

    for place in range(len(prefix), len(after)):
        if is_followed(after[: place + 1] + _LAST):  # the first place where the greatest key has a greater character
            break
    else:
        return []
    stem, lowest = after[:place], after[place]
    greater = [char for char in _PRINTABLE if char > lowest]
    count = bisect_left(greater, True, key=lambda char: not is_followed(stem + char))
    guesses = [stem + char for char in greater[:count]]
    if len(guesses) < _FEW:
        inner = digits if after[place + 1 : place + 2].isdigit() else _ALPHANUMERIC
        guesses = [stem + char + more for char in (lowest, *greater[:count]) for more in inner]
    return [guess for guess in guesses if guess > after]


def _shares(prefix: str, after: str, entries: list[ListedKey]) -> Iterator[_Span]:
    """Divide a page of many folders into a few spans, so that small folders cost few requests."""
    size = -(-len(entries) // _SHARES)
    for start in range(0, len(entries), size):
        upto = entries[min(start + size, len(entries)) - 1].key
        yield _Span(prefix=prefix, after=after, upto=upto)
        after = upto


def _each(fetch: FetchPage, entries: list[ListedKey], levels: int | None) -> Iterator[_Span | list[ListedKey]]:
    """Divide a page of few folders: each is a span, or is divided in turn while `levels` are left."""
    objects: list[ListedKey] = []
    for entry in entries:
        if not entry.is_folder:
            objects.append(entry)
            continue
        if objects:
            yield objects
            objects = []
        if levels is None:
            yield _Span(prefix=entry.key)
        else:
            yield from _split(fetch, entry.key, levels)
    if objects:
        yield objects


def _pages(fetch: FetchPage, span: _Span) -> Iterator[list[ListedKey]]:
    """The pages of a span."""
    # Hardly any key below a folder is greater than this one; those that are, are dropped below.
    start = span.after + _LAST if _is_folder(span.after, span) else span.after
    token: str | None = None
    tokens = _Tokens(span.prefix)
    while True:
        page = fetch(span.prefix, after="" if token else start, token=token)
        entries = [entry for entry in page.entries if not _within(entry.key, span.after, span)]
        inside = entries
        if span.upto is not None:
            upto = span.upto
            inside = [entry for entry in entries if entry.key <= upto or _within(entry.key, upto, span)]
        yield inside
        token = tokens.next_of(page)
        if token is None or len(inside) < len(entries):
            return


def _within(key: str, folder: str, span: _Span) -> bool:
    return _is_folder(folder, span) and key.startswith(folder)


def _is_folder(key: str, span: _Span) -> bool:
    """Whether a bound stands for all keys below it. The prefix itself does not: it is an object, a folder marker."""
    return key.endswith("/") and key != span.prefix


class _MemoryBudget:
    """The bytes that all spans hold together, and the span that is handed out (`current`)."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held_bytes = 0
        self.current: _SpanQueue | None = None
        self.closed = False

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


@dataclass(eq=False)
class _SpanQueue:
    """The compressed pages of one span. One thread fills the queue, another takes from it."""

    budget: _MemoryBudget
    held_bytes: int = 0
    pages: SimpleQueue[bytes | BaseException | None] = field(default_factory=SimpleQueue)

    def put(self, entries: list[ListedKey]) -> bool:
        """Add a page, after a wait for room; False once the listing was closed."""
        rows = [(entry.key, entry.size_bytes, entry.version, entry.archived) for entry in entries]
        data = zlib.compress(pickle.dumps(rows), 1)
        with self.budget.changed:
            self.budget.changed.wait_for(self._has_room)
            if self.budget.closed:
                return False
            self._hold(len(data))
        self.pages.put(data)
        return True

    def take(self) -> Iterator[ListedKey]:
        with self.budget.changed:
            self.budget.current = self
            self.budget.changed.notify_all()
        while (page := self.pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            with self.budget.changed:
                self._hold(-len(page))
                self.budget.changed.notify_all()
            for key, size_bytes, version, archived in pickle.loads(zlib.decompress(page)):
                yield ListedKey(key=key, size_bytes=size_bytes, version=version, archived=archived)

    def _has_room(self) -> bool:
        own_share = self.budget.current is self and self.held_bytes < _TURN_BYTES
        return self.budget.closed or own_share or self.budget.held_bytes < _AHEAD_BYTES

    def _hold(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self.budget.held_bytes += size_bytes


def _fill(queue: _SpanQueue, fetch: FetchPage, span: _Span) -> None:
    try:
        for entries in _pages(fetch, span):
            if not queue.put(entries):
                return
        queue.pages.put(None)
    except BaseException as exc:  # noqa: BLE001  # raised again where the entries are taken
        queue.pages.put(exc)


def parse_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Parse a listing in botocore's hook `before-parse.s3.ListObjectsV2`, and store the page under `FIELD`.

    botocore's own parser gets an empty body.
    """
    if response_dict["status_code"] != 200:
        return
    from botocore.parsers import ResponseParserError

    try:
        customized_response_dict[FIELD] = _parse(response_dict["body"])
    except (ElementTree.ParseError, ValueError, KeyError) as exc:
        raise ResponseParserError(type(exc).__name__) from exc  # the answer was cut short
    response_dict["body"] = b"<ListBucketResult/>"


def _parse(body: bytes) -> Page:
    root = ElementTree.fromstring(body)
    if not root.tag.endswith("ListBucketResult"):
        raise ValueError(root.tag)
    fields: dict[str, str] = {}
    entries: list[ListedKey] = []
    encoded = any(_name(node) == "EncodingType" and node.text == "url" for node in root)
    for node in root:
        name = _name(node)
        if name not in ("Contents", "CommonPrefixes"):
            fields[name] = node.text or ""
            continue
        parts = {_name(part): part.text or "" for part in node}
        key = parts["Key" if name == "Contents" else "Prefix"]
        if encoded:
            key = unquote_plus(key)
        if name == "Contents":
            entries.append(
                ListedKey(
                    key=key,
                    size_bytes=int(parts["Size"]),
                    version=parts.get("ETag", "").strip('"'),
                    archived=_archived(node, parts.get("StorageClass", "")),
                )
            )
        else:
            entries.append(ListedKey(key=key))
    entries.sort(key=lambda entry: entry.key)  # by code point, which is the order of UTF-8 bytes
    truncated = fields.get("IsTruncated", "").strip() == "true"
    return Page(entries=entries, next_token=fields["NextContinuationToken"] if truncated else None)


def _archived(node: ElementTree.Element, storage_class: str) -> str | None:
    """The storage class of an archived object without a restored copy, which alone has a date of expiry."""
    if storage_class not in ARCHIVES or any(_name(part) == "RestoreExpiryDate" for part in node.iter()):
        return None
    return storage_class


def _name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
