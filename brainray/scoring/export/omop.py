"""A run as tables of the medical imaging extension of the OMOP CDM, for research databases.

Columns are those of Park et al., "Development of Medical Imaging Data Standardization for Imaging-Based Observational
Research: OMOP Common Data Model Extension" (J Imaging Inform Med 2024); a feature points to a row of MEASUREMENT or
OBSERVATION of the CDM. No concept of the vocabularies stands for a model's classes, and a run knows no person: concepts
are 0 ("No matching concept"), persons, dates and visits null, to be filled in where the tables are loaded.
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import pyarrow as pa

from brainray import storage
from brainray.errors import BadRequest, as_bad_request

from .sources import ExportedRun, said_of_series

_ROWS = 100_000
_ID, _TEXT, _CONCEPT, _WHEN = pa.int64(), pa.string(), pa.int32(), pa.timestamp("us")
IMAGE_OCCURRENCE = pa.schema(
    {
        "image_occurrence_id": _ID,
        "person_id": _ID,
        "procedure_occurrence_id": _ID,
        "visit_occurrence_id": _ID,
        "anatomic_site_concept_id": _CONCEPT,
        "wadors_uri": _TEXT,
        "local_path": _TEXT,
        "image_occurrence_date": pa.date32(),
        "image_study_uid": _TEXT,
        "image_series_uid": _TEXT,
        "modality_concept_id": _CONCEPT,
    }
)
IMAGE_FEATURE = pa.schema(
    {
        "image_feature_id": _ID,
        "person_id": _ID,
        "image_occurrence_id": _ID,
        "image_feature_event_field_concept_id": _CONCEPT,
        "image_feature_event_id": _ID,
        "image_feature_concept_id": _CONCEPT,
        "image_feature_type_concept_id": _CONCEPT,
        "image_finding_concept_id": _CONCEPT,
        "image_finding_id": _ID,
        "anatomic_site_concept_id": _CONCEPT,
        "alg_system": _TEXT,
        "alg_datetime": _WHEN,
    }
)
OBSERVATION = pa.schema(
    {
        "observation_id": _ID,
        "person_id": _ID,
        "observation_concept_id": _CONCEPT,
        "observation_date": pa.date32(),
        "observation_datetime": _WHEN,
        "observation_type_concept_id": _CONCEPT,
        "value_as_string": _TEXT,
        "observation_source_value": _TEXT,
    }
)
MEASUREMENT = pa.schema(
    {
        "measurement_id": _ID,
        "person_id": _ID,
        "measurement_concept_id": _CONCEPT,
        "measurement_date": pa.date32(),
        "measurement_datetime": _WHEN,
        "measurement_type_concept_id": _CONCEPT,
        "value_as_number": pa.float64(),
        "measurement_source_value": _TEXT,
    }
)
_TABLES = {
    "image_occurrence": IMAGE_OCCURRENCE,
    "image_feature": IMAGE_FEATURE,
    "observation": OBSERVATION,
    "measurement": MEASUREMENT,
}
_OF_OBSERVATION, _OF_MEASUREMENT = 1147304, 1147330  # concepts of the tables that a feature may point to
_NONE = 0


def check_output(run: ExportedRun, output: str) -> None:
    """Raise `BadRequest` where the folder holds a file that no export of this run wrote: tables are read as folders."""
    with as_bad_request("--output"):
        if not storage.exists(output):
            return
        for file in storage.list_files(output):
            path = file.uri[len(output.rstrip("/")) + 1 :]
            if not path.startswith(".") and "/." not in path and not storage.name_of(path).startswith(f"{run.prefix}-"):
                raise BadRequest(
                    f"--output {output} holds {path}, which no export of this run wrote; give a new folder, or one "
                    "that holds an earlier export of this run and nothing else"
                )


def write_tables(run: ExportedRun, output: str, writer: storage.Writer = storage.UNLEASED) -> dict[str, int]:
    """Write the tables as `<table>/<run>-<table>-00000.parquet`; gives their rows. Written again, they are the same.

    Deletes what an earlier export of this run wrote and this one did not, and no other file.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
    counts, files = dict.fromkeys(_TABLES, 0), {name: set[str]() for name in _TABLES}

    def flush(least: int) -> None:
        for name, held in rows.items():
            if len(held) < least:
                continue
            file = f"{run.prefix}-{name}-{len(files[name]):05d}.parquet"
            table = pa.Table.from_pylist(held, schema=_TABLES[name])
            writer.write_parquet(storage.join(output, name, file), table)
            files[name].add(file)
            counts[name] += len(held)
            held.clear()

    for series in said_of_series(run):
        for name, row in _rows(run, series):
            rows[name].append(row)
        flush(_ROWS)
    flush(0)
    for name, written in files.items():
        ours = re.compile(rf"{re.escape(run.prefix)}-{name}-\d{{5,}}\.parquet")
        for other in set(storage.list_names(storage.join(output, name))) - written:
            if ours.fullmatch(other):
                writer.delete(storage.join(output, name, other))
    return counts


def _rows(run: ExportedRun, series: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a series: what it is, what is said of it, and the mean probability of each class."""
    scored_at = run.scored_at.astimezone(UTC).replace(tzinfo=None)
    name, occurrence = series["series"], _id(run, series["series"])
    yield (
        "image_occurrence",
        {
            "image_occurrence_id": occurrence,
            "anatomic_site_concept_id": _NONE,
            "local_path": series["uri"],
            "image_study_uid": series["study"],
            "image_series_uid": name,
            "modality_concept_id": _NONE,
        },
    )
    values: list[tuple[str, str | float | None]] = [("predicted", series["predicted"])]
    values += [(f"prob_{each}", series[f"prob_{each}"]) for each in run.values["classes"]]
    for what, value in values:
        if value is None:
            continue
        event = _id(run, name, what)
        table, field = ("observation", _OF_OBSERVATION) if what == "predicted" else ("measurement", _OF_MEASUREMENT)
        yield (
            "image_feature",
            {
                "image_feature_id": event,
                "image_occurrence_id": occurrence,
                "image_feature_event_field_concept_id": field,
                "image_feature_event_id": event,
                "image_feature_concept_id": _NONE,
                "image_feature_type_concept_id": _NONE,
                "image_finding_concept_id": _NONE,
                "anatomic_site_concept_id": _NONE,
                "alg_system": f"brainray {run.values['fingerprint']}",
                "alg_datetime": scored_at,
            },
        )
        yield (
            table,
            {
                f"{table}_id": event,
                f"{table}_concept_id": _NONE,
                f"{table}_date": scored_at.date(),
                f"{table}_datetime": scored_at,
                f"{table}_type_concept_id": _NONE,
                "value_as_string" if table == "observation" else "value_as_number": value,
                f"{table}_source_value": what,
            },
        )


def _id(run: ExportedRun, *parts: str) -> int:
    """A number of 63 bits for a row, the same whenever this run and model are exported."""
    digest = hashlib.sha256("/".join((run.generation, *parts)).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
