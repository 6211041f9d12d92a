"""What `train` and `tune` share: they list the images, connect to Ray, and decode the images before any fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.callbacks import Say
from brainray.config import ModelSpec, TrainOptions
from brainray.inputs.labels.box_file import read_box_file
from brainray.inputs.labels.group_file import OPTION, read_group_file
from brainray.models.bundle import Bundle
from brainray.storage.shared_paths import NamedPath, shared_paths_of
from brainray.training.dataset import (
    SelectedImages,
    TrainingSet,
    check_group_regex,
    list_excluded,
    list_training_set,
)
from brainray.training.state import TrainRequest, WorkFolder, describe_request

if TYPE_CHECKING:
    from ray.data import Dataset

    from brainray.machine.resources import TrainPool

_SAMPLED_IMAGES = 64  # whose paths the nodes compare: some may have gone since they were listed


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A request whose images are listed."""

    output: str  # normalised
    request: TrainRequest
    training_set: TrainingSet
    excluded: pa.Table | None  # listing of --exclude
    options: TrainOptions
    init: Bundle | None  # the model whose weights training begins with
    teacher: Bundle | None = None  # the model whose fold networks teach
    say: Say

    @property
    def work(self) -> WorkFolder:
        return WorkFolder.of(self.output)

    @property
    def given(self) -> list[str]:
        """The options with files beside the images to learn from."""
        known = (self.excluded is not None, self.training_set.has_group_file, self.training_set.has_boxes)
        return [option for option, is_given in zip(("--exclude", OPTION, "--boxes"), known, strict=True) if is_given]

    @property
    def model(self) -> ModelSpec:
        return self.options.model_spec(self.training_set.classes)


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """The images in the object store of Ray, and the workers that fit on them."""

    dataset: "Dataset"
    selected: SelectedImages
    pool: "TrainPool"


def list_images(
    data: str,
    *,
    output: str,
    exclude: str | None,
    groups: str | None = None,
    boxes: str | None = None,
    options: TrainOptions,
    init: Bundle | None = None,
    teacher: Bundle | None = None,
    say: Say,
) -> TrainingJob:
    """List the images to train on, and read their groups and boxes.

    `output` is normalised. Raises `BadRequest` where there are no classes or no images.
    """
    data_uri, exclude_uri = storage.normalise(data), storage.normalise(exclude) if exclude else None
    group_file = read_group_file(storage.normalise(groups)) if groups else None
    box_file = read_box_file(storage.normalise(boxes)) if boxes else None
    training_set = list_training_set(data_uri, group_file, box_file, output=output)
    check_group_regex(training_set, options)
    excluded = list_excluded(exclude_uri, output=output) if exclude_uri else None
    classes = training_set.classes
    say(f"{len(training_set.table):,} images in {len(classes)} classes: {', '.join(classes)}")
    if training_set.skipped:
        say("passed over: " + ", ".join(f"{count:,} {reason}" for reason, count in training_set.skipped.items()))
    for line in excluded.describe() if excluded else ():
        say(line)
    for line in (*training_set.notes, *(group_file.describe() if group_file else ())):
        say(line)
    for line in box_file.describe(training_set.boxes) if box_file else ():
        say(line)
    return TrainingJob(
        output=output,
        request=describe_request(options, training_set, excluded.table if excluded else None),
        training_set=training_set,
        excluded=excluded.table if excluded else None,
        options=options,
        init=init,
        teacher=teacher,
        say=say,
    )


@contextmanager
def decoded_by_ray(
    job: TrainingJob, writer: storage.Writer, *, workers: int | None, most: int | None
) -> Iterator[DecodedImages]:
    """Connect to Ray and decode the images in the size of the options. `workers` to `most` workers will fit."""
    from brainray.cluster.nodes import await_workers, check_every_node
    from brainray.cluster.session import session
    from brainray.machine.resources import train_pool

    job.say("starting Ray")
    with session(say=job.say) as nodes:
        from brainray.cluster import train_data  # after `session`: importing Ray Data reads the log settings made there

        nodes = await_workers(nodes, say=job.say)
        sample = job.training_set.table.slice(0, _SAMPLED_IMAGES)
        files = pc.coalesce(sample["container"], sample["uri"]).unique().to_pylist()  # a frame lies in a file
        samples = [NamedPath("--data", uri) for uri in files]
        given = (("--init", job.init), ("--teacher", job.teacher))
        named = [NamedPath(option, bundle.uri) for option, bundle in given if bundle]
        check_every_node(shared_paths_of(named, samples=samples, output=job.output, writer=writer))
        pool = train_pool(nodes, workers=workers, batch_size=job.options.batch_size, most=most)
        job.say("decoding")
        decoded, selected = train_data.decode(
            job.training_set, job.excluded, job.options, cpus=pool.decode_cpus, say=job.say
        )
        yield DecodedImages(dataset=decoded, selected=selected, pool=pool)
