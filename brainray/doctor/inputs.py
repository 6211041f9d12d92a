"""Checks locations that commands read: inputs, training data, the model, and the object stores that hold them.

Imports no Ray. Must never show credentials, only where they come from.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice

from brainray import storage
from brainray.callbacks import Clock
from brainray.config import ImageSpec
from brainray.errors import BadRequest, BrainrayError, ImageError
from brainray.imaging.decode import decode
from brainray.inputs.archives import archive_of, kind_of
from brainray.inputs.class_names import ClassLookup, is_no_value
from brainray.inputs.image_files import InputFolders, is_hidden, skip_reason
from brainray.inputs.labels.label_notes import LabelNotes
from brainray.inputs.lists.file_lists import open_file_list
from brainray.inputs.table_formats import TableGuard
from brainray.inputs.unnamed_files import NO_SUFFIX, image_or_tar_format
from brainray.models.bundle import in_package, load_bundle, named
from brainray.storage.base import FileInfo

from .checks import Finding, Skew, counted, finding_of_error, ok, size_text, warning, wrong

_MOST_LISTED = 1000  # files listed to find the first image
_WHOLE_BYTES = 32 << 20  # larger files are read only in part
_MOST_UNNAMED = 64  # files without suffix that are looked into
_HEAD_BYTES = 64 << 10
_SLOW_S = 1.0
_SHOWN_NAMES = 6


def check_input_option(text: str, *, with_store: bool, model: str | None = None) -> Iterator[Finding]:
    """Check a value of --input, of a list with its labels. `with_store`: also report on its object store."""
    uri = storage.normalise(text)
    yield from check_store(uri, report=with_store)
    found = list(check_images("--input", uri))
    yield from found
    if model is not None and not any(finding.status == "wrong" for finding in found):
        with suppress(BrainrayError):  # of the model, which is reported on its own
            classes = load_bundle(named(model)).classes
            yield from _labels_or_error(uri, classes)


def _labels_or_error(uri: str, classes: tuple[str, ...]) -> Iterator[Finding]:
    try:
        yield from check_list_labels(uri, classes)
    except BrainrayError as exc:
        yield finding_of_error(f"--input {uri} labels", exc, remedy="correct the list")


def check_list_labels(uri: str, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Check that the first labels of a list are classes; yields nothing for any other input, and without labels.

    What is none is no fault yet: a label file, which only `score` is given, labels in its place.
    """
    listed = open_file_list(uri)
    if listed is None:
        return
    notes = LabelNotes(classes, silent=False)
    listed = notes.with_labels(listed)
    for note in notes.lines:
        remedy = "see what the column holds; --labels FILE labels in its place"
        yield warning(f"--input {uri} labels", note.removeprefix(f"--input {uri}: "), remedy)
    if not listed.labelled:
        return
    lookup = ClassLookup(classes)
    with closing(listed.rows()) as rows:  # type: ignore[type-var]  # a generator
        labels = {row.label for row in islice(rows, _MOST_LISTED) if row.label}
    named_classes = {label for label in labels if lookup.find(label) is not None}
    unknown = sorted(label for label in labels - named_classes if not is_no_value(label))
    if unknown:
        found = f"{', '.join(map(repr, unknown[:_SHOWN_NAMES]))} is no class of the model, so `score` needs --labels"
        yield warning(f"--input {uri} labels", found, "give it --labels, which labels in their place, or correct them")
    elif named_classes:
        yield ok(f"--input {uri} labels", f"the column {listed.label_column} holds classes")


def check_data_option(text: str, *, with_store: bool) -> Iterator[Finding]:
    """Check a value of --data: its images and class folders. `with_store`: also report on its object store."""
    uri = storage.normalise(text)
    yield from check_store(uri, report=with_store)
    found = list(check_images("--data", uri))
    yield from found
    if not any(finding.status == "wrong" for finding in found):
        yield from check_class_folders(uri)


def check_model_option(text: str, *, with_store: bool) -> Iterator[Finding]:
    """Check a value of --model. `with_store`: also report on its object store."""
    uri = named(text)
    if not in_package(uri):
        yield from check_store(uri, report=with_store)
    yield from check_model(uri)


def check_store(uri: str, *, report: bool = True, clock: Clock = time.time) -> Iterator[Finding]:
    """Check the object store of a location: host, source of the credentials, difference of the clocks.

    Yields nothing for a local path, and nothing without `report`. Raises `StorageError` where the store cannot be
    reached, so that the caller tries nothing else there.
    """
    name = store_of(uri)
    before_s = clock()
    service = storage.describe_service(uri)
    after_s = clock()
    if service is None or not report:
        return
    found = f"{service.host}, region {service.region}, credentials by {service.credentials}"
    found = "; ".join((found, *service.settings))
    if service.renewed:
        yield ok(f"{name} store", found)
    else:
        yield warning(
            f"{name} store",
            f"{found}: a session's token, which nobody renews",
            "for a run that takes longer than it lasts use AWS_PROFILE or a role, which are renewed",
        )
    if service.time_s is not None:
        # The store gives whole seconds: its time lies between time_s and time_s + 1.
        skew = Skew(least_s=before_s - service.time_s - 1, most_s=after_s - service.time_s)
        yield _assess_clock(f"{name} clock", skew)


def _assess_clock(name: str, skew: Skew) -> Finding:
    if skew.harmless:
        return ok(name, f"within {skew.most_apart_s:.0f} s of this machine's")
    found = f"this machine's is {skew.apart_s:,.0f} s {'ahead of' if skew.ahead else 'behind'} the store's"
    remedy = "set this machine's clock, and keep it set: timedatectl set-ntp true; AWS refuses what is 15 minutes off"
    return skew.finding(name, found, remedy)


def store_of(uri: str) -> str:
    """Return the bucket of a location, which names the checks of its store."""
    return "/".join(uri.split("/")[:3])


def check_images(option: str, uri: str) -> Iterator[Finding]:
    """Check that images can be listed, and that the first one can be read."""
    name = f"{option} {uri}"
    is_remote = uri.startswith("s3://")
    try:
        first, skipped = first_image(uri, option)
    except BrainrayError as exc:
        remedy = "correct it, or mount its file system" if not is_remote else "correct the bucket or the folder"
        yield finding_of_error(f"{name} list", exc, remedy=remedy)
        return
    if first is None:
        is_cut = skipped == _MOST_LISTED
        found = f"no image among {'its first ' if is_cut else ''}{counted(skipped, 'file')}"
        advice = "give the folder that holds the images, or a tar, zip, Parquet or list of images"
        yield (warning if is_cut else wrong)(f"{name} list", found, advice)
        return
    yield ok(f"{name} list", f"the first image is {first.uri}")
    verb = "get" if is_remote else "read"
    try:
        yield _time_read(f"{name} {verb}", first)
    except BrainrayError as exc:
        yield finding_of_error(f"{name} {verb}", exc, remedy="let this user read it")


def first_image(uri: str, option: str = "--input") -> tuple[FileInfo | None, int]:
    """Find the first image or archive; returns it (None among the first 1000 files) and the number of skipped files.

    Raises `BadRequest` for an empty list of images, and for a table whose log decides which images it has.
    """
    listed = open_file_list(uri)
    if listed is not None:
        with closing(listed.rows()) as rows:  # type: ignore[type-var]  # a generator
            row = next(rows, None)
        if row is None:
            raise BadRequest(f"{uri}: the list is empty; give one that names images")
        if row.is_prefix:
            return first_image(row.uri)
        archive = archive_of(row.uri)
        file = archive[0] if archive and storage.exists(archive[0]) else row.uri
        return next(iter(storage.list_files(file))), 0
    skipped = 0
    unnamed: list[FileInfo] = []
    first: FileInfo | None = None
    tables = TableGuard(uri, option)
    with closing(storage.list_files(uri, InputFolders("--input", Counter()))) as files:  # type: ignore[type-var]  # a generator
        for found in islice(files, _MOST_LISTED):
            file = storage.name_of(found.uri)
            tables.on_file(found.folders, file)
            if first is not None:
                continue
            is_archive = kind_of(file) and not found.special and not is_hidden(file, found.folders)
            reason = skip_reason(file, found.folders, special=found.special)
            if is_archive or reason is None:
                first = found
                if kind_of(file) != "parquet":
                    return first, skipped
                tables.on_images(found.folders)  # the log of its table may follow
                continue
            skipped += 1
            if reason == NO_SUFFIX and len(unnamed) < _MOST_UNNAMED:
                unnamed.append(found)
    if first is not None:
        return first, skipped
    image = next((found for found in unnamed if image_or_tar_format(found) is not None), None)
    return image, skipped


def _time_read(name: str, first: FileInfo) -> Finding:
    """Read a file as scoring does, twice, and time the second read, which needs no new connection."""
    if first.archived is not None:
        found = f"{first.uri} is in {first.archived}, as others may be"
        return warning(name, found, "restore what is to be scored; archived images get a row that says so")
    whole = first.size_bytes <= _WHOLE_BYTES and kind_of(first.uri) is None
    data, took_s = b"", 0.0
    for _ in range(2):
        began_s = time.perf_counter()
        data = storage.read_once(first.uri) if whole else storage.read_range(first.uri, 0, _prefix_bytes(first))
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


def _prefix_bytes(first: FileInfo) -> int:
    return min(first.size_bytes, _HEAD_BYTES)


def check_class_folders(uri: str) -> Iterator[Finding]:
    """List the class folders that training would find."""
    names = [name for name in storage.list_names(uri) if skip_reason(name, ()) is not None]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
    if not names:
        advice = "put the images of each class into a folder named for it"
        yield wrong(f"--data {uri} classes", "no folders in it", advice)
    else:
        yield ok(f"--data {uri} classes", f"{counted(len(names), 'folder')}: {shown}")


def check_model(uri: str) -> Iterator[Finding]:
    """Check a model bundle by reading all its bytes and comparing its fingerprint. Needs no torch."""
    bundle = load_bundle(uri)
    description = f"{bundle.model.name}, {bundle.image.image_px} px, classes {', '.join(bundle.classes)}"
    yield ok(f"--model {uri}", f"{description}; whole, fingerprint {bundle.fingerprint}")
