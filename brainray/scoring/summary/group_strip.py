"""The strip of the page: one image of each group, the one that tells most, of a bounded number of groups.

It reads some columns of every part again, since which groups are shown is known only when all rows are counted.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.machine.ahead import map_ahead
from brainray.page.sections import group_tables
from brainray.page.tiles import MOST_STRIP, Row
from brainray.scoring.labelling.judged_wrong import JudgedWrong
from brainray.scoring.parts import part_uri, present_shards
from brainray.scoring.prediction_schema import is_mistake

from .group_levels import cut, depth, groups_at, named

_COLUMNS = ("uri", "group", "label", "predicted", "confidence", "content_hash", "shard_id")
_ORDER = (("group", "ascending"), ("wrong", "descending"), ("main", "descending"), ("confidence", "descending"))
_THREADS = 4


def strip_rows(run_uri: str, figures: Mapping[str, Any]) -> tuple[Row, ...]:
    """A row for each group of the level of patients, or else of the last level, in the order of the page's table.

    It is that of the most confident mistake; where there is none, of the most confident prediction of the class that
    most images of the group have. A group in which nothing was scored has none.
    """
    level = depth(figures["group_levels"])
    table = group_tables(figures)[-1 if level is None else level - 1]
    shown = table["scored"][:MOST_STRIP]
    groups, judged = groups_at(figures, level), JudgedWrong.of_run(run_uri)
    wanted = pa.table(
        {"group": shown, "main": [_main_class(groups[name]["predicted"]) for name in shown]},
        schema=pa.schema([("group", pa.string()), ("main", pa.string())]),
    )

    def of_part(shard_id: str) -> pa.Table:
        with storage.open_parquet(part_uri(run_uri, shard_id)) as file:
            rows = file.read(columns=[*_COLUMNS, "status"], use_threads=False)
        wrong = is_mistake(rows, figures["classes"])
        if len(judged):
            wrong = pc.or_(wrong, pa.array(judged.among(rows)))
        return _telling(_marked(rows.append_column("wrong", wrong.cast(pa.int8())), wanted, level))

    tables = map_ahead(of_part, sorted(present_shards(run_uri)), threads=_THREADS)
    rows = reduce(lambda first, second: _telling(pa.concat_tables([first, second])), tables)
    place = {name: number for number, name in enumerate(shown)}
    found = sorted(rows.to_pylist(), key=lambda row: place[row["group"]])
    return tuple(row | {"images": groups[row["group"]]["predicted"]} for row in found)


def _main_class(predicted: Mapping[str, int]) -> str:
    return max(predicted, key=lambda name: predicted[name])


def _marked(rows: pa.Table, wanted: pa.Table, level: int | None) -> pa.Table:
    """The scored rows of the wanted groups, and whether each is of the main class."""
    rows = rows.set_column(rows.column_names.index("group"), "group", cut(named(rows["group"]), level))
    place = pc.index_in(rows["group"], wanted["group"].combine_chunks())
    chosen = pc.and_(place.is_valid(), pc.equal(rows["status"], "ok"))
    rows, place = rows.filter(chosen).drop_columns("status"), place.filter(chosen)
    main = pc.fill_null(pc.equal(rows["predicted"], wanted["main"].take(place)), False)
    return rows.append_column("main", main.cast(pa.int8()))


def _telling(rows: pa.Table) -> pa.Table:
    """The first row of each group."""
    rows = rows.combine_chunks().take(pc.sort_indices(rows, sort_keys=[*_ORDER, ("uri", "ascending")]))
    names = np.asarray(rows["group"].to_pylist(), object)
    return rows.filter(pa.array(np.r_[True, names[1:] != names[:-1]][: len(rows)]))
