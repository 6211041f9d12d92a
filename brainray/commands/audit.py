"""What `brainray audit` does: list the images, compute descriptors, find copies and how they were altered, publish.

A million images cost the driver 5 GB of memory (Arrow columns, about 300 bytes an image, and the index of `search`)
and 15 GB of temporary disk (descriptors).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray import storage
from brainray.callbacks import Say
from brainray.duplicates.descriptors import Descriptors
from brainray.duplicates.groups import (
    READABLE,
    REASONS,
    SCHEMA_VERSION,
    AuditListing,
    figures_of,
    groups_table,
    list_images,
    number_groups,
)
from brainray.duplicates.proposals import FILE as PROPOSED
from brainray.duplicates.proposals import group_file
from brainray.duplicates.report import page
from brainray.duplicates.search import Pairs, find_copies, group_copies
from brainray.errors import EXCLUSION_REASONS, BadRequest, excluded_reasons
from brainray.inputs.labels.group_file import read_group_file
from brainray.storage import Writer, lease
from brainray.storage.scratch import scratch_folder
from brainray.storage.shared_paths import NamedPath, shared_paths_of

GROUPS, PAGE, SUMMARY = "groups.parquet", "audit.html", "summary.json"
_KIND = "audit"

Array = npt.NDArray[Any]


class AuditEngine(Protocol):
    """The work on images: with Ray, or in this process for tests."""

    def read(self, images: pa.Table, signatures: Descriptors) -> Array:
        """Fill in the descriptors. Gives for each image -1, or the index in `REASONS` of why it is left out."""

    def verify(self, signatures: Descriptors, pairs: Pairs) -> npt.NDArray[np.float32]:
        """The similarity of each pair, as `search.similarities`."""

    def describe(self, signatures: Descriptors, rows: Array) -> tuple[Array, pa.Array]:
        """How the images at `rows` were altered, as `transforms.find_transforms`."""


Start = Callable[["AuditRequest", AuditListing, Writer, Say], AbstractContextManager[AuditEngine]]


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """An audit. Locations are normalised."""

    data: tuple[str, ...]
    against: tuple[str, ...]
    output: str
    group_regex: str | None
    groups: str | None = None
    all_series: bool = False  # also medical images that `score` excludes

    @classmethod
    def of(
        cls,
        data: Sequence[str],
        *,
        against: Sequence[str],
        output: str,
        group_regex: str | None,
        groups: str | None = None,
        all_series: bool = False,
    ) -> "AuditRequest":
        if not data:
            raise BadRequest("--data names nothing; give a folder or more")
        return cls(
            data=tuple(map(storage.normalise, data)),
            against=tuple(map(storage.normalise, against)),
            output=storage.normalise(output),
            group_regex=group_regex,
            groups=storage.normalise(groups) if groups else None,
            all_series=all_series,
        )


def audit(request: AuditRequest, *, say: Say, start: Start | None = None) -> dict[str, Any]:
    """Find copies and conflicts, and write the files. Gives the figures of summary.json.

    `start` gives the engine; the default uses Ray.
    """
    check_output(request.output)
    lease.refuse_if_held(request.output)
    subjects = read_group_file(request.groups) if request.groups else None
    listed = list_images(
        request.data, request.against, group_regex=request.group_regex, group_file=subjects, output=request.output
    )
    say(f"{len(listed.table):,} images")
    for line in (*listed.notes, *(subjects.describe() if subjects else ())):
        say(line)
    if listed.skipped:
        say("passed over: " + ", ".join(f"{count:,} {reason}" for reason, count in listed.skipped.items()))
    storage.check_writable("--output", request.output)
    with lease.hold(request.output, purpose=_KIND, say=say) as held:
        check_output(request.output)
        with scratch_folder() as scratch:
            signatures = Descriptors.empty(len(listed.table), scratch)
            with (start or _ray)(request, listed, held.writer, say) as engine:
                table = _find(listed, signatures, engine, say)
            figures = _figures(request, listed, table)
            _publish(request.output, table, figures, page(figures, table, listed.table["folder"], signatures), held)
    return figures


def check_output(uri: str) -> None:
    """Raise `BadRequest` for a file, and for a folder that holds anything but an earlier audit, which is replaced."""
    storage.check_is_folder("--output", uri, give="a folder that is new or holds an earlier audit")
    names = storage.list_names(uri)
    foreign = sorted(set(names) - {GROUPS, PROPOSED, PAGE, SUMMARY})
    if not foreign and SUMMARY in names:
        foreign = [SUMMARY] if storage.read_json(storage.join(uri, SUMMARY)).get("kind") != _KIND else []
    if foreign:
        raise BadRequest(f"--output {uri} holds {foreign[0]}, which no audit wrote; give a new or an empty folder")


@contextmanager
def _ray(request: AuditRequest, listed: AuditListing, writer: Writer, say: Say) -> Iterator[AuditEngine]:
    """The default engine. Imports Ray, which nothing before it does."""
    from brainray.cluster.session import session

    say("starting Ray")
    with session(environments=False, say=say) as nodes:
        from brainray.cluster.audit import RayAudit
        from brainray.cluster.nodes import await_workers, check_every_node

        nodes = await_workers(nodes, say=say)
        roots = [("--data", uri) for uri in request.data] + [("--against", uri) for uri in request.against]
        check_every_node(shared_paths_of([NamedPath(*root) for root in roots], output=request.output, writer=writer))
        excluding = excluded_reasons(all_series=request.all_series)
        yield RayAudit(max(1, int(sum(node.cpus for node in nodes))), excluding)


def _find(listed: AuditListing, signatures: Descriptors, engine: AuditEngine, say: Say) -> pa.Table:
    """The table of groups.parquet."""
    say("reading")
    errors = engine.read(listed.table, signatures)
    reasons = Counter(REASONS[code] for code in errors[errors != READABLE].tolist())
    excluded = sum(reasons[reason] for reason in EXCLUSION_REASONS)
    if unreadable := reasons.total() - excluded:
        say(f"{unreadable:,} cannot be read; they have a row that says why")
    if excluded:
        say(f"{excluded:,} are no anatomical slices, as score has it; they have a row that says why; see --all-series")
    say("searching for copies")
    pairs = find_copies(signatures, verify=engine.verify)
    grouping = number_groups(group_copies(signatures, pairs), signatures)
    copies = grouping.copies(signatures)
    say(f"{int(grouping.number.max(initial=-1)) + 1:,} distinct pictures; finding how the copies were altered")
    return groups_table(listed.table, signatures, errors, grouping, (copies, *engine.describe(signatures, copies)))


def _figures(request: AuditRequest, listed: AuditListing, table: pa.Table) -> dict[str, Any]:
    return {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "data": list(request.data),
        "against": list(request.against),
        **figures_of(table, listed.table["folder"]),
        "skipped": listed.skipped,
    }


def _publish(output: str, table: pa.Table, figures: dict[str, Any], html: str, held: lease.Lease) -> None:
    """Each file is replaced as a whole, one right after the other; the summary comes last."""
    held.writer.write_parquet(storage.join(output, GROUPS), table)
    held.writer.write_bytes(storage.join(output, PROPOSED), group_file(table))
    held.writer.write_bytes(storage.join(output, PAGE), html.encode())
    held.writer.write_json(storage.join(output, SUMMARY), figures)
