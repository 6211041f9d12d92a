"""Refuses tables of Delta Lake, Iceberg and Hudi: a log beside the Parquet files decides which of their rows exist.

A plain listing of such a folder would score rows that have been removed. Opens no file.
"""

import glob
import shlex

from brainray import storage
from brainray.errors import BadRequest

_ICEBERG_TABLE = "an Iceberg"
_LOG_FOLDERS = {"_delta_log": "a Delta", ".hoodie": "a Hudi"}  # in the folder of the table
_ICEBERG = "metadata"  # in the folder of the table, beside "data"
_ICEBERG_SUFFIXES = (".metadata.json", ".metadata.json.gz")


class TableGuard:
    """Raises `BadRequest` once both a table's log and Parquet files of its data have been found, in either order.

    Remembers folders of Parquet files with images, no files.
    """

    def __init__(self, root: str, option: str = "--input") -> None:
        self._root = root
        self._option = option
        self._tables: dict[tuple[str, ...], str] = {}  # folder of the table's data -> format
        self._above_images: set[tuple[str, ...]] = set()  # folders of Parquet files with images, and those above
        self._last: tuple[str, ...] = ()
        self.notes: list[str] = []

    def on_file(self, folders: tuple[str, ...], name: str = "") -> None:
        """Take notice of any file or folder, also one that is passed over: it may belong to a log."""
        if folders[-1:] == (_ICEBERG,) and name.endswith(_ICEBERG_SUFFIXES):
            self._add((*folders[:-1], "data"), _ICEBERG_TABLE)
        if folders == self._last:
            return
        self._last = folders
        for depth, folder in enumerate(folders):
            if folder in _LOG_FOLDERS:
                self._add(folders[:depth], _LOG_FOLDERS[folder])

    def on_images(self, folders: tuple[str, ...]) -> None:
        """Take notice of a Parquet file with images."""
        if not self._above_images:
            self._note_table_above()
        above = [folders[:depth] for depth in range(len(folders) + 1)]
        self._above_images.update(above)
        for folder in above:
            if folder in self._tables:
                raise self._refusal(folder)

    def _note_table_above(self) -> None:
        """Note a table in which the input lies itself, as `table/*.parquet` does; in a bucket it takes requests."""
        above = self._root
        while storage.is_local(above) and (parent := above.rpartition("/")[0]) and parent != above:
            above = parent
            kind = next(
                (kind for log, kind in _LOG_FOLDERS.items() if storage.is_folder(storage.join(above, log))), None
            )
            if kind is not None:
                self.notes.append(
                    f"{self._option} {self._root} lies in {kind} table, {above}, whose log may say that some rows are "
                    "removed: all are scored; export the valid ones, and give these, to leave them out"
                )
                return

    def _add(self, folder: tuple[str, ...], kind: str) -> None:
        self._tables[folder] = kind
        if folder in self._above_images:
            raise self._refusal(folder)

    def _refusal(self, folder: tuple[str, ...]) -> BadRequest:
        kind = self._tables[folder]
        table = folder[:-1] if kind == _ICEBERG_TABLE else folder
        pattern = shlex.quote(glob.escape("/".join(table)) + "/*")
        others = f", or leave it out by --exclude {pattern}" if table else ""
        return BadRequest(
            f"{self._option} {storage.join(self._root, *table)} is {kind} table, whose log says which rows of its "
            f"Parquet files are valid; export these rows to Parquet and give that, or a list of the images{others}"
        )
