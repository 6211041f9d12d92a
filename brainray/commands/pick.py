"""What `brainray pick` does: draw the images of a run that a person should label. Needs neither Ray nor torch."""

from dataclasses import dataclass, field
from os import fspath
from typing import Any

import pyarrow as pa

from brainray import storage
from brainray.callbacks import Say, ignore
from brainray.errors import BadRequest, as_bad_request
from brainray.scoring.labelling.picks import LIST, PAGE, Pick, check_same_population, read_pick
from brainray.scoring.labelling.population import Source, draw
from brainray.scoring.pseudonyms.names import names_for, say_of_missing
from brainray.scoring.run_folder import check_is_run, is_published
from brainray.scoring.summary.group_levels import depth
from brainray.storage.lease import hold

from .options import AnyPath

_SEEDS = 2**63  # what other programs read from JSON and Parquet as a whole number
LEAST, MOST = 20, 5_000  # labels: fewer say nothing, and more is not a sample but a data set


@dataclass(frozen=True, kw_only=True, eq=False)
class PickResult:
    """A sample of the images of a run that a person should label."""

    run: str  # URI
    folder: str  # URI of the folder with pick.csv, pick.html, pick.json and pick.parquet
    figures: dict[str, Any] = field(repr=False)  # pick.json
    rows: pa.Table = field(repr=False)  # pick.parquet: an image each, in the order of labelling

    @property
    def list(self) -> str:
        """URI of the CSV whose column `label` is to be filled in."""
        return storage.join(self.folder, LIST)

    @property
    def page(self) -> str:
        """URI of the page on which the images can be labelled by key."""
        return storage.join(self.folder, PAGE)

    def __str__(self) -> str:
        return f"{self.figures['picked']:,} of {self.figures['images']:,} images are to be labelled; {self.folder}"


def pick(
    run: AnyPath,
    *,
    labels: int = 200,
    seed: int = 0,
    whole_groups: bool = False,
    thumbnails: bool = True,
    real_uris: AnyPath | None = None,
    say: Say = ignore,
) -> PickResult:
    """Draw the images that a person should label, so that `estimate` can say how good a run is.

    Equal seeds give equal samples, and the sample for fewer labels is the first part of that for more. `whole_groups`
    draws groups, such as patients, as a whole: easier to label, and each label says much less. `real_uris` is the
    folder with the names of a run with pseudonyms, without which the page has no thumbnails.
    """
    if not LEAST <= labels <= MOST:
        raise BadRequest(f"--labels is {labels}; it must be from {LEAST} to {MOST:,}")
    if not 0 <= seed < _SEEDS:
        raise BadRequest(f"--seed is {seed}; it must be from 0 to 2**63 - 1")
    uri = storage.normalise(fspath(run))
    with as_bad_request("RUN"):
        values = check_is_run(uri)
        published = is_published(uri)
    if whole_groups and values.get("group_by") is None:
        raise BadRequest(f"--whole-groups: {uri} has no groups; score it with --group-by or --groups, or leave it out")
    if not published:
        say(f"{uri} is not complete: it has no _SUCCESS, so the sample is one of the rows it has now")
    names = names_for(uri, values, fspath(real_uris) if real_uris else None, needed_by=None)
    if thumbnails:
        say_of_missing(uri, values, names, say)
    source = Source(
        uri=uri, run=values, seed=seed, depth=depth(values.get("group_levels") or ()), by_group=whole_groups
    )
    with hold(uri, purpose="pick", say=say) as lease:
        drawn = draw(source, labels)
        picked = Pick.of(source, drawn)
        before = read_pick(uri, seed)
        check_same_population(before, picked)
        from brainray.scoring.labelling.pick_page import pick_page  # its template engine takes 0.1 s to import

        page = pick_page(source, picked, drawn.rows, thumbnails=thumbnails, names=names)
        kept = picked.write(page, lease.writer, before=before)
    if kept is not None:
        say(
            f"{storage.join(picked.uri, LIST)} was filled in or changed; it is kept as {storage.name_of(kept)} beside "
            "the new list, and `estimate` takes both: --labels once for each"
        )
    return PickResult(run=uri, folder=picked.uri, figures=picked.figures, rows=picked.rows)
