"""Checks of what is read: inputs, training data, model; and of the object stores they lie in. Knows no Ray.

Credentials are named by where they come from, and never shown.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from brainray import storage
from brainray.callbacks import Clock
from brainray.config import ImageSpec
from brainray.errors import BadRequest, BrainrayError, ImageError
from brainray.imaging.decode import decode
from brainray.inputs.archives import kind_of
from brainray.inputs.file_lists import open_file_list
from brainray.inputs.image_files import is_hidden, skip_reason
from brainray.models.bundle import SHIPPED, load_bundle, named
from brainray.storage.base import FileInfo

from .checks import Finding, Skew, counted, finding_of_error, ok, size_text, warning, wrong

_LOOKED_AT = 1000  # files, for the first image
_WHOLE_BYTES = 32 << 20  # larger files are not read to their end
_HEAD_BYTES = 64 << 10
_SLOW_S = 1.0
_SHOWN_NAMES = 6


def look_at_input(text: str, *, with_store: bool) -> Iterator[Finding]:
    uri = storage.normalise(text)
    yield from check_service(uri, told=with_store)
    yield from check_images("--input", uri)


def look_at_data(text: str, *, with_store: bool) -> Iterator[Finding]:
    uri = storage.normalise(text)
    yield from check_service(uri, told=with_store)
    found = list(check_images("--data", uri))
    yield from found
    if not any(finding.status == "wrong" for finding in found):
        yield from check_class_folders(uri)


def look_at_model(text: str, *, with_store: bool) -> Iterator[Finding]:
    uri = named(text)
    if uri != SHIPPED:
        yield from check_service(uri, told=with_store)
    yield from check_model(uri)


def check_service(uri: str, *, told: bool = True, clock: Clock = time.time) -> Iterator[Finding]:
    """The object store of a location: where it is, whose credentials it is shown, how far its clock is from ours.

    Raises `StorageError` where it cannot be reached, so that nothing else of it is tried; without `told` that is all.
    """
    name = store_of(uri)
    before_s = clock()
    service = storage.describe_service(uri)
    after_s = clock()
    if service is None or not told:
        return
    found = f"{service.host}, region {service.region}, credentials by {service.credentials}"
    if service.renewed:
        yield ok(f"{name} store", found)
    else:
        yield warning(
            f"{name} store",
            f"{found}: a session's token, which nobody renews",
            "for a run that takes longer than it lasts use AWS_PROFILE or a role, which are renewed",
        )
    if service.time_s is not None:
        # Its second has begun, and is not over: so far ahead of it may ours be, at least and at most.
        skew = Skew(least_s=before_s - service.time_s - 1, most_s=after_s - service.time_s)
        yield _judge_clock(f"{name} clock", skew)


def _judge_clock(name: str, skew: Skew) -> Finding:
    if skew.harmless:
        return ok(name, f"within {skew.within_s:.0f} s of this machine's")
    found = f"this machine's is {skew.apart_s:,.0f} s {'ahead of' if skew.ahead else 'behind'} the store's"
    remedy = "set this machine's clock, and keep it set: timedatectl set-ntp true; AWS refuses what is 15 minutes off"
    return skew.judge(name, found, remedy)


def store_of(uri: str) -> str:
    """The bucket of a location, by which checks of its store are named."""
    return "/".join(uri.split("/")[:3])


def check_images(option: str, uri: str) -> Iterator[Finding]:
    """Whether images can be listed and read: the first one is."""
    name = f"{option} {uri}"
    far = uri.startswith("s3://")
    try:
        first, passed_over = first_image(uri)
    except BrainrayError as exc:
        remedy = "correct it, or mount its file system" if not far else "correct the bucket or the folder"
        yield finding_of_error(f"{name} list", exc, remedy=remedy)
        return
    if first is None:
        many = passed_over == _LOOKED_AT
        found = f"no image among {'its first ' if many else ''}{counted(passed_over, 'file')}"
        advice = "give the folder that holds the images, or a tar, zip, Parquet or list of images"
        yield (warning if many else wrong)(f"{name} list", found, advice)
        return
    yield ok(f"{name} list", f"the first image is {first.uri}")
    verb = "get" if far else "read"
    try:
        yield _read(f"{name} {verb}", first)
    except BrainrayError as exc:
        yield finding_of_error(f"{name} {verb}", exc, remedy="let this user read it")


def first_image(uri: str) -> tuple[FileInfo | None, int]:
    """The first image or container of images, and how many files were passed over to find it."""
    listed = open_file_list(uri)
    if listed is not None:
        with closing(listed.rows()) as rows:  # type: ignore[type-var]  # a generator
            row = next(rows, None)
        if row is None:
            raise BadRequest(f"{uri}: the list is empty; give one that names images")
        return next(iter(storage.list_files(row.uri))), 0
    passed_over = 0
    with closing(storage.list_files(uri)) as files:  # type: ignore[type-var]  # a generator
        for found in islice(files, _LOOKED_AT):
            file = storage.name_of(found.uri)
            container = kind_of(file) and not found.special and not is_hidden(file, found.folders)
            if container or skip_reason(file, found.folders, special=found.special) is None:
                return found, passed_over
            passed_over += 1
    return None, passed_over


def _read(name: str, first: FileInfo) -> Finding:
    """By the request that scoring makes, the second time, when the connection is there."""
    whole = first.size_bytes <= _WHOLE_BYTES and kind_of(first.uri) is None
    data, took_s = b"", 0.0
    for _ in range(2):
        began_s = time.perf_counter()
        data = storage.read_once(first.uri) if whole else storage.read_range(first.uri, 0, _head(first))
        took_s = time.perf_counter() - began_s
    found = f"{size_text(len(data))} in {1000 * took_s:.0f} ms"
    if whole:
        try:
            picture = decode(data, ImageSpec())
        except ImageError as exc:
            advice = "it will get a row that says so; see whether the others are images"
            return warning(name, f"{first.uri} is no image that can be scored: {exc}", advice)
        found += f", {picture.format} of {picture.width} x {picture.height}"
    if took_s > _SLOW_S:
        return warning(name, f"{found}, which is slow", "run nearer to the data: the same region, the same network")
    return ok(name, found)


def _head(first: FileInfo) -> int:
    return min(first.size_bytes, _HEAD_BYTES)


def check_class_folders(uri: str) -> Iterator[Finding]:
    """What training would take for classes, or for folders above them."""
    names = [name for name in storage.list_names(uri) if skip_reason(name, ()) is not None]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
    if not names:
        advice = "put the images of each class into a folder named for it"
        yield wrong(f"--data {uri} classes", "no folders in it", advice)
    else:
        yield ok(f"--data {uri} classes", f"{counted(len(names), 'folder')}: {shown}")


def check_model(uri: str) -> Iterator[Finding]:
    """Every byte is read: the fingerprint is of all of them. Needs no torch."""
    bundle = load_bundle(uri)
    what = f"{bundle.model.name}, {bundle.image.image_px} px, classes {', '.join(bundle.classes)}"
    yield ok(f"--model {uri}", f"{what}; whole, fingerprint {bundle.fingerprint}")
