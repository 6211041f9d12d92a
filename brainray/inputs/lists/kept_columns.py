"""The columns of lists that go along into the predictions (`--keep-columns`)."""

from collections.abc import Iterable, Sequence

from brainray import storage
from brainray.errors import BadRequest

from .file_lists import open_table


def kept_types(inputs: Sequence[str], names: Sequence[str], *, taken: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Name and Arrow type of each column to be kept. Raises `BadRequest` where a list among the inputs lacks it.

    `taken` are the names that predictions have already.
    """
    if not names:
        return ()
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise BadRequest(f"--keep-columns {repeated}: is given twice; name each column once")
    clash = next((name for name in names if name in set(taken)), None)
    if clash is not None:
        raise BadRequest(f"--keep-columns {clash}: predictions have such a column already; name it otherwise")
    tables = [table for uri in inputs if (table := open_table(storage.normalise(uri))) is not None]
    lists = [table for table in tables if table.keeps(names)] or tables[:1]
    if not lists:
        raise BadRequest(
            "--keep-columns needs an --input that is a list of images (CSV or Parquet with a column uri) or a Parquet "
            "file of images; give Parquet files below a folder each by an --input"
        )
    types = [image_list.kept_types(names) for image_list in lists]
    for image_list, other in zip(lists, types, strict=True):
        for name in names:
            if other[name] != types[0][name]:
                raise BadRequest(
                    f"--keep-columns {name}: is {types[0][name]} in {lists[0].uri} and {other[name]} in "
                    f"{image_list.uri}; give it one type"
                )
    return tuple(types[0].items())
