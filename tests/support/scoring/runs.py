"""What tests of a run share: an engine that scores in this process, and the rows that a run holds."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from support.models.bundles import CLASSES

from brainray import storage
from brainray.commands.score import Outcome, ScoreEngine, score
from brainray.config import Explain, MaxFailed, ScoreOptions
from brainray.duplicates.seen import read_seen
from brainray.inputs.labels.label_file import LabelFile
from brainray.inputs.lists.kept_columns import kept_types
from brainray.inputs.reader import Reader
from brainray.models.bundle import Bundle
from brainray.models.predictor import Predictor
from brainray.models.scored_maps import MappingPredictor
from brainray.scoring.feature_sample import Encode
from brainray.scoring.maps.of_shard import MapOrder, Mapper
from brainray.scoring.prediction_schema import LATER, prediction_schema
from brainray.scoring.pseudonyms.key import read_pseudonyms
from brainray.scoring.run_folder import ScoreRequest
from brainray.scoring.shard import Probabilities, decode_shard, predict_shard
from brainray.scoring.shard_task import open_shard
from brainray.scoring.uids import uid_rule

if TYPE_CHECKING:
    from support.machine.processes import Workspace


class Stopped(BaseException):
    """The process ended here. Nothing catches it."""


_predictors: dict[str, Predictor] = {}
_mappers: dict[tuple[str, Explain], Mapper] = {}


def _predictor(bundle: Bundle) -> Predictor:
    """A predictor of a bundle of this fingerprint, made once: the fusion of its network takes 0.1 s."""
    if bundle.fingerprint not in _predictors:
        _predictors[bundle.fingerprint] = Predictor(bundle, batch_size=8)
    return _predictors[bundle.fingerprint]


def _mapper(bundle: Bundle, explain: Explain) -> Mapper:
    """What maps images of a run, made once for a bundle of this fingerprint: the grid takes 150 forward passes."""
    key = bundle.fingerprint, explain
    if key not in _mappers:
        mapping = MappingPredictor(_predictor(bundle), bundle.model.name)
        _mappers[key] = Mapper(order=MapOrder.of(bundle, explain), predict=mapping)
    return _mappers[key]


def engine_of(
    bundle: Bundle,
    *,
    only: int | None = None,
    on_shard: Callable[[str], None] | None = None,
    predict: Probabilities | None = None,
    encode: Encode | None = None,
) -> ScoreEngine:
    """Scores one shard after the other without Ray; after `only` of them the run is stopped dead."""
    predict = predict or _predictor(bundle)

    def engine(request: ScoreRequest, plan, lease) -> Iterator:
        target = request.target(plan.uri, lease.writer, run=plan.run_json)
        reader = Reader(
            outage_share=request.options.max_unread,
            roots=request.roots,
            most_bytes=request.options.max_file_bytes,
            sleep=lambda _: None,
        )
        seen = read_seen(bundle)
        explain = request.options.explain
        mapper = _mapper(bundle, explain) if explain else None
        todo = [shard for shard in plan.todo if plan.pending[shard.shard_id]]
        for number, shard in enumerate(todo):
            if number == only:
                raise Stopped
            if on_shard:
                on_shard(shard.shard_id)
            state = open_shard(shard, target)
            decoded = decode_shard(
                state.pending,
                bundle.image,
                reader=reader,
                excluding=target.excluding,
                series_key=target.series_key,
                uids=target.uids,
                names=target.names,
            )
            yield predict_shard(state, decoded, predict, target, seen=seen, encode=encode, mapper=mapper)
        assert only is None, "a run that is stopped leaves shards that are not scored"

    return engine


def request_for(
    root, output, bundle: Bundle, *, label_file: LabelFile | None = None, group_file=None, **options
) -> ScoreRequest:
    inputs = (str(root),) if isinstance(root, str) or not isinstance(root, tuple) else tuple(map(str, root))
    chosen = ScoreOptions(**{"shard_size": 6, "report": False} | options)
    kept = kept_types(inputs, chosen.keep_columns, taken=prediction_schema(bundle.classes).names)
    uids = uid_rule(keep=chosen.keep_uids, key_file=chosen.uid_key, output=str(output))
    folder = chosen.pseudonymise_uris
    return ScoreRequest(
        inputs=inputs,
        output=str(output),
        bundle=bundle,
        label_file=label_file,
        group_file=group_file,
        options=chosen,
        kept=kept,
        uids=uids,
        pseudonyms=read_pseudonyms(folder, output=str(output), inputs=inputs) if folder else None,
    )


def score_here(request: ScoreRequest, engine: ScoreEngine) -> Outcome:
    return score(request, listener=lambda _: None, say=lambda _: None, engine=engine)


def finish_here(workspace: "Workspace", bundle: Bundle) -> Outcome:
    """The run of a workspace in this process, without Ray."""
    return score_here(request_for(workspace.root, workspace.output, bundle, shard_size=4), engine_of(bundle))


def undisturbed_rows(workspace: "Workspace", bundle: Bundle, folder: Path) -> dict[str, dict]:
    """The rows of a run of the same archive that nobody disturbs."""
    request = request_for(workspace.root, folder / "undisturbed", bundle, shard_size=4)
    score_here(request, engine_of(bundle))
    return contents(request.output)


def rows(run_uri) -> list[dict]:
    """Every row that a plain glob over the parts sees."""
    folder = f"{run_uri}/predictions"
    names = storage.list_names(folder)
    return [row for name in names for row in storage.read_parquet(f"{folder}/{name}").to_pylist()]


def rows_by_name(source, output, bundle: Bundle, **options) -> dict[str, dict]:
    """The rows of a run over a folder or an archive, by the names below it; frames are named as in a folder."""
    options = {"max_failed": MaxFailed(share=1.0), "shard_size": 50, "group_by": "folder"} | options
    score_here(request_for(source, output, bundle, **options), engine_of(bundle, predict=brightness))
    found = {row["uri"].removeprefix(f"{source}").lstrip("#/"): row for row in rows(output)}
    return {name.replace("#frame=", "#"): row for name, row in found.items()}


def contents(run_uri) -> dict[str, dict]:
    """Rows by URI without what depends on when and in which shard they were scored. Fails for a doubled one.

    Without the features of the sample, which `engine_of` makes only where it gets an encoder.
    """
    found = rows(run_uri)
    by_uri = {
        row["uri"]: {k: v for k, v in row.items() if k not in ("scored_at", "shard_id", "features")} for row in found
    }
    assert len(by_uri) == len(found), "an image has two rows"
    return by_uri


def as_of_an_earlier_version(output) -> None:
    """Take the columns that came later out of a run."""
    path = Path(output, "run.json")
    values = json.loads(path.read_text())
    del values["later_columns"]
    path.write_text(json.dumps(values))
    for part in Path(output, "predictions").iterdir():
        table = pq.read_table(part)
        pq.write_table(table.drop_columns(list(LATER)), part)


def brightness(images):
    """A stand-in for a network that tells images apart, and needs no torch."""
    mean = images.reshape(len(images), -1).mean(axis=1) / 255 if len(images) else np.empty(0)
    rest = (1 - mean) / (len(CLASSES) - 1)
    return np.stack([mean] + [rest] * (len(CLASSES) - 1), axis=1).astype(np.float32)


def parts(uri):
    """Name and time of writing of each part."""
    folder = f"{uri}/predictions"
    return {name: os.stat(f"{folder}/{name}").st_mtime_ns for name in os.listdir(folder)}


def success(uri):
    return storage.exists(f"{uri}/_SUCCESS")
