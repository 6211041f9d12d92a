"""Whether a run's archive is like what its model knows: gathers the sample of its rows, and compares it.

The sample are the scored images with the lowest hashes that the model has not learned from (`scoring.feature_sample`).
The reference lies in the run, a copy of that of the bundle, so that a summary needs no bundle. `features.parquet` holds
the features of the sample; those of the generation before are kept beside it.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError
from brainray.evaluation.counts import Ints
from brainray.evaluation.shift import FEWEST, MOST, Pictures, before_and_now
from brainray.evaluation.territory import ESTIMATED, territory
from brainray.models.reference import COUNT
from brainray.scoring.feature_sample import hash_limit, hash_places
from brainray.scoring.prediction_schema import prob_column
from brainray.scoring.run_folder import REFERENCE, SUMMARY

from .group_levels import cut, depth, has_patients

FEATURES = "features.parquet"
_BEFORE = "previous_features.parquet"
_FINGERPRINT = b"brainray_fingerprint"


def sample_columns(classes: Sequence[str], later: Collection[str]) -> list[str]:
    """The columns of a part that `select_sample` reads; `later`: those of `LATER` that the run has."""
    marks = [name for name in ("seen", "features") if name in later]
    return ["uri", "content_hash", "group", "status", *map(prob_column, classes), *marks]


def select_sample(table: pa.Table, images: int) -> pa.Table:
    """The rows with the lowest hashes of a part of a run of so many images, at most `ESTIMATED`."""
    limit = hash_limit(images, ESTIMATED)
    has_hash = pc.fill_null(pc.match_substring_regex(table["content_hash"], "^[0-9a-f]{13}"), False)
    wanted = pc.and_(pc.equal(table["status"], "ok"), has_hash)
    if limit < 1:
        below = pc.less(table["content_hash"], f"{int(limit * 16**13):013x}")
        wanted = pc.and_(wanted, pc.fill_null(below, False))
    if "seen" in table.column_names:
        wanted = pc.and_(wanted, pc.invert(pc.fill_null(table["seen"], False)))
    rows = table.filter(wanted)
    rows = rows.drop_columns([name for name in ("status", "seen") if name in rows.column_names])
    return _lowest(rows.append_column("place", pa.array(hash_places(rows["content_hash"]), pa.float64())))


def join_samples(samples: Iterable[pa.Table]) -> pa.Table:
    """The sample of several parts together."""
    return _lowest(pa.concat_tables(samples))


def _lowest(rows: pa.Table) -> pa.Table:
    order = pc.sort_indices(rows, sort_keys=[("place", "ascending"), ("uri", "ascending")])
    return rows.take(order[:ESTIMATED])


def territory_figures(run_uri: str, sample: pa.Table, classes: Sequence[str], levels: Sequence[str]) -> dict[str, Any]:
    """The figures of summary.json on a sample. `levels` are the names of the levels of groups; none without groups."""
    group_N = _groups(sample["group"], levels)
    return territory(
        read_reference_copy(run_uri, classes),
        Pictures(_probs(sample, classes), _features(sample), group_N),
        features=_with_features(sample),
        classes=classes,
        patient_count=len(np.unique(group_N[group_N < len(group_N)])) if has_patients(levels) else None,
    )


def _with_features(sample: pa.Table) -> int:
    """How many images at the beginning of a sample all have features.

    Of a run that has grown, those scored while it was small have some beyond, where later ones have none: they are no
    random part of it.
    """
    if "features" not in sample.column_names:
        return 0
    nulls = np.flatnonzero(np.asarray(pc.is_null(sample["features"])))
    return int(nulls[0]) if len(nulls) else len(sample)


def read_reference_copy(run_uri: str, classes: Sequence[str]) -> tuple[Pictures, Ints] | None:
    """The reference of a run and the classes of its pictures; None where there is none, or a damaged one."""
    with suppress(StorageError, KeyError, ValueError, pa.ArrowException):
        table = storage.read_parquet(storage.join(run_uri, REFERENCE))
        label = pc.index_in(table["label"], pa.array(classes, pa.string()))
        table, label = table.filter(pc.is_valid(label)), label.drop_null()
        units = np.asarray(table["unit"], np.int64)
        found = Pictures(_probs(table, classes), _features(table), units)
        if np.isfinite(found.probs_NK).all() and np.isfinite(found.features_NF).all():
            return found, np.asarray(label, np.int64)
    return None


def _probs(table: pa.Table, classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.stack([table[prob_column(name)].to_numpy() for name in classes], axis=1).astype(np.float64)


def _features(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[N, F] features; 0 where a row has none."""
    found = np.zeros((len(table), COUNT), np.float32)
    if "features" in table.column_names:
        valid = np.asarray(pc.is_valid(table["features"]))
        values = pc.list_flatten(table["features"].filter(pa.array(valid))).to_numpy()
        found[valid] = values.reshape(-1, COUNT)
    return found


def _groups(column: pa.ChunkedArray, levels: Sequence[str]) -> Ints:
    """[N] the group of each image, of the level of patients; images without one have one each, from N on."""
    if not levels:
        return np.arange(len(column))
    names = cut(column, depth(levels))
    codes = names.combine_chunks().dictionary_encode().indices
    found = np.asarray(pc.fill_null(codes, -1), np.int64)
    return np.where(found < 0, len(found) + np.arange(len(found)), found)


def write_features(
    run_uri: str, sample: pa.Table, fingerprint: str, levels: Sequence[str], writer: storage.Writer
) -> dict[str, Any] | None:
    """Write `features.parquet`, keep that of another model beside it, and compare both.

    None where there is none before; the comparison is of pictures, whatever the models make of them.
    """
    folder = storage.join(run_uri, SUMMARY)
    uri, uri_before = storage.join(folder, FEATURES), storage.join(folder, _BEFORE)
    before = _of_other_model(uri, fingerprint)
    if before is not None:
        writer.write_parquet(uri_before, before)
    else:
        before = _of_other_model(uri_before, fingerprint)
    if "features" not in sample.column_names:
        writer.delete(uri)
        return None
    now = sample.select(["uri", "content_hash", "group", "features"]).slice(0, min(MOST, _with_features(sample)))
    writer.write_parquet(uri, now.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()}))
    return None if before is None else _compared(before, now, levels)


def _compared(before: pa.Table, now: pa.Table, levels: Sequence[str]) -> dict[str, Any] | None:
    if min(len(before), len(now)) < FEWEST:
        return None
    both = pa.concat_tables([before.replace_schema_metadata(None), now])
    contents = both["content_hash"].combine_chunks().dictionary_encode().indices
    # A picture that is in both is one group, else it would count as two that happen to be equal.
    same = pc.is_in(before["content_hash"], now["content_hash"].combine_chunks())
    group_N = _groups(both["group"], levels) if levels else np.asarray(contents, np.int64)
    first_N = np.arange(len(both)) < len(before)
    test = before_and_now(_features(both), group_N, first_N)
    return {
        "images": len(before),
        "same_images": int(pc.sum(same).as_py() or 0),
        "distance": test.distance,
        "usual": test.usual,
        "effect": test.effect,
        "p_value": test.p_value,
        "different": test.is_different,
    }


def _of_other_model(uri: str, fingerprint: str) -> pa.Table | None:
    """The features in a file; None where there is none, it is damaged, or it is of this model."""
    with suppress(StorageError):
        table = storage.read_parquet(uri)
        model = (table.schema.metadata or {}).get(_FINGERPRINT)
        return table if model is not None and model != fingerprint.encode() else None
    return None
