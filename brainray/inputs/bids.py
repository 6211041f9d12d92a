"""Trees of BIDS (bids.neuroimaging.io): which of their folders hold what is not raw data.

`derivatives` holds what was computed from the images of the tree, such as segmentations and copies in another space,
`sourcedata` what they were made from: scored with the tree, a scan would count several times.
"""

from collections.abc import Callable, Sequence

from brainray import storage

from . import archives
from .archives.index import ArchiveIndex

DESCRIPTION = "dataset_description.json"
_NOT_RAW = ("derivatives", "sourcedata")


class BidsTrees:
    """The trees below an input, by the description that each has, which is listed before its folders."""

    def __init__(self, *, all_wanted: bool = False) -> None:
        """With `all_wanted`, as where `--include` says what is wanted, nothing is passed over."""
        self._all_wanted = all_wanted
        self._roots: set[tuple[str, ...]] = set()

    def on_file(self, folders: Sequence[str], name: str) -> None:
        """Take notice of any file."""
        if name == DESCRIPTION:
            self._roots.add(tuple(folders))

    def skip_reason(self, folders: Sequence[str]) -> str | None:
        """The reason to pass over a file in these folders below the input; None where there is none."""
        if not self._roots or self._all_wanted:
            return None
        found = _beside_raw_data(folders, lambda above: tuple(above) in self._roots)
        return None if found is None else f"{found} of BIDS"


def holds_no_raw_data(root: str, folders: Sequence[str]) -> bool:
    """Whether a listing of `root` passes over these folders below it as what a BIDS tree holds beside its raw data."""
    return _beside_raw_data(folders, lambda above: storage.exists(storage.join(root, *above, DESCRIPTION))) is not None


def _beside_raw_data(folders: Sequence[str], is_tree: Callable[[Sequence[str]], bool]) -> str | None:
    """The first of nested folders that a tree has beside its raw data; `is_tree` says which of those above are one."""
    places = (depth for depth, folder in enumerate(folders) if folder in _NOT_RAW and is_tree(folders[:depth]))
    return next((folders[depth] for depth in places), None)


def trees_in(index: ArchiveIndex, name: str, *, all_wanted: bool) -> BidsTrees:
    """The trees in an archive of this name, whose members are in any order."""
    trees = BidsTrees(all_wanted=all_wanted)
    for member in index.named(DESCRIPTION):
        *folders, file = archives.inner_path(name, member).split("/")
        trees.on_file(folders, file)
    return trees
