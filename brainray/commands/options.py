"""Checks the options of `score` and `train`, as a command line or a Python call gives them. Reads no file."""

from collections.abc import Iterable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from brainray.config import Explain, MaxFailed, ScoreOptions, TrainOptions, parse_share, parse_size, parse_workers
from brainray.errors import BadRequest

if TYPE_CHECKING:
    from brainray.models.bundle import Bundle

AnyPath = str | PathLike[str]  # a local path, file:// or s3://bucket/prefix

# The options of `train` that a preset changes; one that is given wins.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 24, "image_px": 160},
    "thorough": {"epochs": 60, "image_px": 224, "patience": 15},
}


def several(values: AnyPath | Iterable[AnyPath] | None) -> tuple[str, ...]:
    """One path or text, several, or none, as a tuple of strings."""
    if values is None:
        return ()
    paths = (values,) if isinstance(values, str | PathLike) else values
    return tuple(fspath(path) for path in paths)


def score_options(
    *,
    max_failed: str | int | MaxFailed,
    max_unread: str | float,
    max_file_size: str | int = ScoreOptions.max_file_bytes,
    include: str | Iterable[str] | None,
    exclude: str | Iterable[str] | None,
    keep_columns: str | Iterable[str] | None,
    group_by: str | Iterable[str] | None = None,
    explain: str | int | None = None,
    **given: Any,  # noqa: ANN401  the other fields of ScoreOptions, which checks them
) -> ScoreOptions:
    """The options of `score`. Raises `BadRequest` that names the option."""
    return ScoreOptions(
        max_failed=max_failed if isinstance(max_failed, MaxFailed) else MaxFailed.parse(str(max_failed)),
        max_file_bytes=(
            parse_size("--max-file-size", max_file_size) if isinstance(max_file_size, str) else max_file_size
        ),
        max_unread=parse_share("--max-unread", max_unread) if isinstance(max_unread, str) else max_unread,
        include=several(include),
        exclude=several(exclude),
        group_by=_levels(group_by),
        explain=None if explain is None else Explain.parse(str(explain)),
        keep_columns=tuple(name.strip() for names in several(keep_columns) for name in names.split(",")),
        **given,
    )


def _levels(group_by: str | Iterable[str] | None) -> str | tuple[str, ...] | None:
    """One level as it is given, as runs of earlier versions have it, or several."""
    levels = several(group_by)
    return levels if len(levels) > 1 else levels[0] if levels else None


def train_options(
    *,
    preset: str,
    workers: str | int | tuple[int, int] | None,
    init: "Bundle | None" = None,
    **given: Any,  # noqa: ANN401  the other fields of TrainOptions, which checks them
) -> TrainOptions:
    """The options of `train`. Raises `BadRequest` that names the option.

    None stands for the value of `init` (the model whose weights training begins with), the preset or the default.
    """
    if preset not in PRESETS:
        raise BadRequest(f"--preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    chosen = {name: value for name, value in given.items() if value is not None}
    own = _own_options(init, chosen) if init else {}
    least, most = _worker_range(workers)
    return TrainOptions(**PRESETS[preset] | own | chosen, workers=least, most_workers=most)


def _worker_range(workers: str | int | tuple[int, int] | None) -> tuple[int | None, int | None]:
    """The lowest and the highest number of workers; None where there is no such bound."""
    if workers is None:
        return None, None
    return workers if isinstance(workers, tuple) else parse_workers(str(workers))


def _own_options(init: "Bundle", chosen: dict[str, Any]) -> dict[str, Any]:
    """The options that a model decides whose weights training begins with. Raises `BadRequest` for other values."""
    network = {
        "model": init.model.name,
        "channels": init.model.channels,
        "width": init.model.width,
        "crop": init.image.crop,
    }
    for name, value in network.items():
        if chosen.get(name, value) != value:
            raise BadRequest(f"--{name} is {chosen[name]}, but --init brings a model with {value}; leave --{name} out")
    if chosen.get("weights", "none") != "none":
        raise BadRequest(f"--weights {chosen['weights']} and --init are two beginnings; leave one out")
    return network | {"image_px": init.image.image_px}
