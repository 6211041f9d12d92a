"""All objects below a prefix, in the order of their keys, with several spans of the key space listed at once.

Memory stays flat: what is listed ahead of its turn waits compressed (29 kB for 1000 keys), up to a limit.
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

FIELD = "Page"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedKey:
    """An object, or with a delimiter a folder: then without version, and its key ends with the delimiter."""

    key: str
    size_bytes: int = 0
    version: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.version is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Objects and folders together, in the order of their keys' UTF-8 bytes."""

    entries: list[ListedKey]
    next_token: str | None


def parse_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """botocore's hook `before-parse.s3.ListObjectsV2`: takes the body away from its parser and adds `FIELD`."""
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
            entries.append(ListedKey(key=key, size_bytes=int(parts["Size"]), version=parts.get("ETag", "").strip('"')))
        else:
            entries.append(ListedKey(key=key))
    entries.sort(key=lambda entry: entry.key)  # by code point, which is the order of UTF-8 bytes
    truncated = fields.get("IsTruncated", "").strip() == "true"
    return Page(entries=entries, next_token=fields["NextContinuationToken"] if truncated else None)


def _name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


LISTERS = 8  # spans at once
_AHEAD = 2 * LISTERS  # spans known beyond the one handed out
_AHEAD_BYTES = 64 << 20  # about two million keys
_TURN_BYTES = 4 << 20  # of the span whose turn it is, whatever the others hold
_NARROW = 8  # folders: fewer than this are looked into, for there may be too few to share out
_DEEP = 3  # levels to look into
_WIDE = 64  # folders of a page: more are listed several to a span, for they may hold little each
_SHARES = 16  # spans of a wide page
_FLAT_PAGES = 16  # of a folder of files that are listed before the rest is shared out
_FEW = 8  # spans: fewer are divided once more
_LAST = chr(0x10FFFF)
_PRINTABLE = tuple(chr(code) for code in range(0x21, 0x7F) if chr(code) != "/")
_ALPHANUMERIC = tuple(char for char in _PRINTABLE if char.isalnum())


class FetchPage(Protocol):
    """One request for up to 1000 keys. Repeats itself where the store falters."""

    def __call__(self, prefix: str, *, delimiter: str = "", after: str = "", token: str | None = None) -> Page: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """The keys with a prefix that follow `after` and do not follow `upto`, both of which may be folders, whole."""

    prefix: str
    after: str = ""
    upto: str | None = None


def list_objects(fetch: FetchPage, prefix: str) -> Iterator[ListedKey]:
    """Every object whose key starts with `prefix`."""
    parts = _split(fetch, prefix, _DEEP)
    room = _MemoryBudget()
    waiting: deque[list[ListedKey] | _SpanQueue] = deque()
    pool = ThreadPoolExecutor(LISTERS, thread_name_prefix="s3 listing")
    try:
        while True:
            while len(waiting) < _AHEAD and (part := next(parts, None)) is not None:
                if isinstance(part, _Span):
                    shelf = _SpanQueue(room)
                    pool.submit(_fill, shelf, fetch, part)
                    waiting.append(shelf)
                else:
                    waiting.append(part)
            if not waiting:
                return
            first = waiting.popleft()
            yield from first if isinstance(first, list) else first.take()
    finally:
        room.close()
        pool.shutdown(wait=False, cancel_futures=True)


def _split(fetch: FetchPage, prefix: str, levels: int) -> Iterator[_Span | list[ListedKey]]:
    """The key space in order: objects where a look at the folders showed them, and spans yet to be listed."""
    token: str | None = None
    after = ""
    while True:
        page = fetch(prefix, delimiter="/", token=token)
        folders = sum(entry.is_folder for entry in page.entries)
        if folders == 0 and page.next_token and token is None:
            if levels < _DEEP:
                yield _Span(prefix=prefix)  # many files: better listed beside its neighbours than here
            else:
                yield from _flat(fetch, prefix, page)
            return
        if folders > _WIDE:
            yield from _shares(prefix, after, page.entries)
        else:
            look_into = levels > 0 and folders < _NARROW
            yield from _each(fetch, page.entries, levels - 1 if look_into else None)
        if page.next_token is None:
            return
        token = page.next_token
        after = page.entries[-1].key if page.entries else after


def _flat(fetch: FetchPage, prefix: str, page: Page) -> Iterator[_Span | list[ListedKey]]:
    """A folder of files alone: its first pages, then spans up to keys that are guessed. A bad guess costs a request."""
    for number in count(1):
        yield page.entries
        if page.next_token is None:
            return
        after = page.entries[-1].key
        if number >= _FLAT_PAGES and not after.endswith("/"):  # which would stand for a folder, whole
            break
        page = fetch(prefix, after=after) if number == 1 else fetch(prefix, token=page.next_token)
    for upto in _guesses(fetch, prefix, after):
        yield _Span(prefix=prefix, after=after, upto=upto)
        after = upto
    yield _Span(prefix=prefix, after=after)


def _guesses(fetch: FetchPage, prefix: str, after: str) -> list[str]:
    """Texts between a key and the greatest one, that share out what lies between if names count up or are random."""

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
    """A page of many folders as a few spans, so that requests stay few where each folder holds little."""
    size = -(-len(entries) // _SHARES)
    for start in range(0, len(entries), size):
        upto = entries[min(start + size, len(entries)) - 1].key
        yield _Span(prefix=prefix, after=after, upto=upto)
        after = upto


def _each(fetch: FetchPage, entries: list[ListedKey], levels: int | None) -> Iterator[_Span | list[ListedKey]]:
    """A page of few folders: each a span, or looked into where levels are left."""
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
    # Below a folder no key is greater than this one, or next to none: those are dropped below.
    start = span.after + _LAST if _is_folder(span.after, span) else span.after
    token: str | None = None
    while True:
        page = fetch(span.prefix, after="" if token else start, token=token)
        entries = [entry for entry in page.entries if not _within(entry.key, span.after, span)]
        inside = entries
        if span.upto is not None:
            upto = span.upto
            inside = [entry for entry in entries if entry.key <= upto or _within(entry.key, upto, span)]
        yield inside
        if page.next_token is None or len(inside) < len(entries):
            return
        token = page.next_token


def _within(key: str, folder: str, span: _Span) -> bool:
    return _is_folder(folder, span) and key.startswith(folder)


def _is_folder(key: str, span: _Span) -> bool:
    """Whether a bound stands for all below it. The prefix itself is an object, the marker of an empty folder."""
    return key.endswith("/") and key != span.prefix


class _MemoryBudget:
    """How much may be listed ahead by all, and whose turn it is."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held_bytes = 0
        self.turn: _SpanQueue | None = None
        self.closed = False

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


@dataclass(eq=False)
class _SpanQueue:
    """What is listed of one span and not yet handed out. One thread fills it, another takes."""

    room: _MemoryBudget
    held_bytes: int = 0
    pages: SimpleQueue[bytes | BaseException | None] = field(default_factory=SimpleQueue)

    def put(self, entries: list[ListedKey]) -> bool:
        """Waits for room; False where nobody wants it any more."""
        rows = [(entry.key, entry.size_bytes, entry.version) for entry in entries]
        data = zlib.compress(pickle.dumps(rows), 1)
        with self.room.changed:
            self.room.changed.wait_for(self._has_room)
            if self.room.closed:
                return False
            self._hold(len(data))
        self.pages.put(data)
        return True

    def take(self) -> Iterator[ListedKey]:
        with self.room.changed:
            self.room.turn = self
            self.room.changed.notify_all()
        while (page := self.pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            with self.room.changed:
                self._hold(-len(page))
                self.room.changed.notify_all()
            for key, size_bytes, version in pickle.loads(zlib.decompress(page)):
                yield ListedKey(key=key, size_bytes=size_bytes, version=version)

    def _has_room(self) -> bool:
        turn = self.room.turn is self and self.held_bytes < _TURN_BYTES
        return self.room.closed or turn or self.room.held_bytes < _AHEAD_BYTES

    def _hold(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self.room.held_bytes += size_bytes


def _fill(shelf: _SpanQueue, fetch: FetchPage, span: _Span) -> None:
    try:
        for entries in _pages(fetch, span):
            if not shelf.put(entries):
                return
        shelf.pages.put(None)
    except BaseException as exc:  # noqa: BLE001  # raised again where the entries are taken
        shelf.pages.put(exc)
