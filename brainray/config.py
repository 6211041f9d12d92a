"""Frozen options for images, models, training and scoring, validated when they are made.

An option that is out of range raises `BadRequest`, which names it. Knows no file, no Ray, no torch.
"""

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from .errors import BadRequest

Precision = Literal["auto", "bf16", "fp32"]
Resize = Literal["pad", "stretch"]
Crop = Literal["head", "none"]
Tone = Literal["as_is", "usual"]
Weights = Literal["none", "imagenet"]
COMPACT = "compact"  # our own network, see `models.networks`
LITE_FAST = "lite0-fast"  # EfficientNet-Lite0 with a plain beginning, see `models.lite_fast`
LITE_NAMES = ("lite0", "lite1", "lite2")  # EfficientNet-Lite, see `models.efficientnet_lite`


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadRequest(message)


def pattern_of(option: str, text: str) -> re.Pattern[str]:
    """Compile a regular expression. Raises `BadRequest` that names the option."""
    try:
        return re.compile(text)
    except re.error as exc:
        raise BadRequest(f"{option} {text!r} is no regular expression: {exc}") from None


def _one_of(name: str, value: object, kind: object) -> None:
    allowed = get_args(kind)
    _require(value in allowed, f"{name} is {value!r}; it must be one of {', '.join(map(str, allowed))}")


class _Spec:
    """Converts a spec to JSON and back. Unknown keys are refused, for they mean a file of a newer version."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        unknown = set(values) - {f.name for f in fields(cls)}  # type: ignore[arg-type]
        _require(not unknown, f"{cls.__name__} does not know {', '.join(sorted(unknown))}; update brainray")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True, kw_only=True)
class ImageSpec(_Spec):
    """How an image file becomes the array that a model takes. Training and scoring decode by the same spec."""

    image_px: int = 160  # height and width of the array
    channels: int = 1  # 1: luminance, 3: RGB
    crop: Crop = "none"  # head: the margins around the head are cut off first, see `normalise.head_box`
    tone: Tone = "as_is"  # usual: an equalised histogram is undone, see `normalise.usual_tone`
    resize: Resize = "pad"  # pad: keep proportions, black borders; stretch: fill the square
    mean: float = 0.18  # of luminance / 255 over brain-MRI slices; subtracted before the first layer
    std: float = 0.2
    max_pixels: int = 100_000_000  # larger images are refused as too_large before they are unpacked

    def __post_init__(self) -> None:
        _require(16 <= self.image_px <= 1024, f"--image-px is {self.image_px}; it must be from 16 to 1024")
        _require(self.channels in (1, 3), f"channels is {self.channels}; it must be 1 or 3")
        _one_of("--crop", self.crop, Crop)
        _one_of("tone", self.tone, Tone)
        _one_of("resize", self.resize, Resize)
        _require(self.std > 0, f"std is {self.std}; it must be above 0")
        _require(self.max_pixels > 0, f"max_pixels is {self.max_pixels}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Spec):
    """The network of a model, and its classes in the order of its outputs."""

    name: str = "compact"  # our own CNN, or the name of a torchvision classification backbone
    classes: tuple[str, ...]
    channels: int = 1
    width: float = 1.0  # for `compact` only: multiplies the number of channels of its layers

    def __post_init__(self) -> None:
        _require(0.25 <= self.width <= 4, f"--width is {self.width}; it must be from 0.25 to 4")
        _require(
            self.width == 1 or self.name == COMPACT, f"--width is for {COMPACT}; {self.name} has a width of its own"
        )
        _require(len(self.classes) >= 2, f"a model needs two classes or more, not {len(self.classes)}")
        _require(len(set(self.classes)) == len(self.classes), f"classes repeat: {', '.join(self.classes)}")


@dataclass(frozen=True, kw_only=True)
class Calibration(_Spec):
    """How logits become calibrated probabilities, and below which confidence a person must review a prediction."""

    temperature: float = 1.0  # logits are divided by it before the softmax (Guo et al. 2017)
    class_bias: tuple[float, ...] = ()  # added after that, see `calibration.rare_class_bias`; empty: nothing
    review_below: float = 0.0  # a prediction with less confidence is for review

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.review_below, *self.class_bias)
        _require(all(map(math.isfinite, numbers)) and self.temperature > 0, f"{self} is no calibration")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(_Spec):
    """Options of `train`: everything that changes the weights."""

    model: str = "compact"
    weights: Weights = "none"  # the initial weights of the network
    init: str | None = None  # fingerprint of the model whose weights are the initial ones instead
    teacher: str | None = None  # fingerprint of the model whose fold networks teach beside the labels
    image_px: int = 160
    channels: int = 1
    width: float = 1.0  # see `ModelSpec`
    crop: Crop = "head"
    epochs: int = 24
    batch_size: int = 32  # images in a step, over all workers
    lr: float = 3e-3  # learning rate at the peak of the schedule
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1  # share of all steps in which the learning rate rises
    label_smoothing: float = 0.05
    # Strength of the augmentation; 0: none. Accuracy of a network trained from scratch for 16 epochs on 1,700 synthetic
    # images: 76 % at 1, 97 % at 0.5. With ImageNet weights, or in a long training, 1 is good.
    augment: float = 0.5
    outliers: float = 0.125  # pictures of no head per image; the model learns low confidence for them
    region_weight: float = 0.3  # of the loss on where the finding is, for images with a box
    averaging: float = 0.99  # decay of the moving average of the weights; 0: the last weights are kept
    patience: int = 8  # epochs without a better validation, after which training stops
    val_fraction: float = 0.15
    # Cross-validation: each image is in the validation set of one fold, then a last training uses all. 0: one split.
    folds: int = 0
    group_regex: str | None = None  # its match in a URI names a patient or series, which is never split
    seed: int = 0
    workers: int | None = None  # training processes; None: as many as the cluster holds
    most_workers: int | None = None  # upper limit as machines join; None: the number is fixed
    precision: Precision = "auto"
    all_series: bool = False  # also learn from medical images that `score` excludes, such as maps

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"--epochs is {self.epochs}; it must be 1 or more")
        _require(self.batch_size >= 1, f"--batch-size is {self.batch_size}; it must be 1 or more")
        _require(0 < self.lr < math.inf, f"--lr is {self.lr}; it must be a number above 0")
        _require(0 < self.val_fraction < 1, f"--val-fraction is {self.val_fraction}; it must lie between 0 and 1")
        _require(self.folds == 0 or 2 <= self.folds <= 20, f"--folds is {self.folds}; it must be 0, or from 2 to 20")
        _require(0 <= self.augment <= 2, f"--augment is {self.augment}; it must be from 0 to 2")
        _require(0 <= self.averaging < 1, f"--averaging is {self.averaging}; it must be 0 or more, and below 1")
        _require(0 <= self.seed < 2**32, f"--seed is {self.seed}; it must be from 0 to {2**32 - 1}")
        _require(0 <= self.region_weight <= 10, f"region_weight is {self.region_weight}; it must be from 0 to 10")
        _require(0 <= self.outliers <= 1, f"outliers is {self.outliers}; it must be from 0 to 1")
        _one_of("--weights", self.weights, Weights)
        _require(
            self.weights == "none" or self.model != COMPACT,
            f"--weights {self.weights}: there are none for {COMPACT}; choose {LITE_NAMES[0]} or a torchvision network",
        )
        if self.group_regex is not None:
            pattern_of("--group-regex", self.group_regex)
        _require(self.workers is None or self.workers >= 1, f"--workers is {self.workers}; it must be 1 or more")
        _require(
            self.most_workers is None or (self.workers or 1) < self.most_workers,
            f"--workers is {self.workers}-{self.most_workers}; the second number must be the greater one",
        )
        _require(self.patience >= 1, f"--patience is {self.patience}; it must be 1 or more")
        _one_of("--precision", self.precision, Precision)
        _ = self.image_spec

    @property
    def image_spec(self) -> ImageSpec:
        return ImageSpec(image_px=self.image_px, channels=self.channels, crop=self.crop, tone="usual")

    def model_spec(self, classes: tuple[str, ...]) -> ModelSpec:
        return ModelSpec(name=self.model, classes=classes, channels=self.channels, width=self.width)


def parse_workers(text: str) -> tuple[int, int | None]:
    """Parse `4` or `2-8`: the workers that training needs, and the most it can use (None: the same).

    Raises `BadRequest` that names the option.
    """
    least, dash, most = text.partition("-")
    try:
        return int(least), int(most) if dash else None
    except ValueError:
        raise BadRequest(f"--workers is {text!r}; give a number such as 4, or a range such as 2-8") from None


def parse_share(name: str, text: str) -> float:
    """Parse `50%` or `0.5 %` as a number from 0 to 1. Raises `BadRequest` that names the option."""
    digits, percent, rest = text.strip().partition("%")
    try:
        share = float(digits) / 100
    except ValueError:
        share = -1.0
    _require(bool(percent) and not rest and 0 <= share <= 1, f"{name} is {text!r}; give a share from 0% to 100%")
    return share


_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}


def parse_size(name: str, text: str) -> int:
    """Parse `500 MB` (10^6 bytes), `1GiB` (2^30) or `4096` as bytes. Raises `BadRequest` that names the option."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    unit = _SIZE_UNITS.get(found[2]) if found else None
    if found is None or unit is None:
        raise BadRequest(f"{name} is {text!r}; give a size such as 500MB or 2GiB")
    return int(float(found[1]) * unit)


@dataclass(frozen=True, kw_only=True)
class MaxFailed(_Spec):
    """How many images may fail before `score` ends with exit code 3: a count or a share of all images."""

    count: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        _require((self.count is None) != (self.share is None), "--max-failed needs a count or a share")

    @classmethod
    def parse(cls, text: str) -> "MaxFailed":
        """Parse `12` as a count, `1%` or `0.5 %` as a share. Raises `BadRequest`."""
        if "%" in text:
            return cls(share=parse_share("--max-failed", text))
        try:
            count = int(text)
        except ValueError:
            raise BadRequest(f"--max-failed is {text!r}; give a count such as 12 or a share such as 1%") from None
        _require(count >= 0, f"--max-failed is {text!r}; it must be 0 or more")
        return cls(count=count)

    def exceeded(self, *, failed: int, total: int) -> bool:
        if self.count is not None:
            return failed > self.count
        return self.share is not None and failed > self.share * total

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{100 * (self.share or 0):g}%"


@dataclass(frozen=True, kw_only=True)
class PageOptions(_Spec):
    """What a summary has for people: a page, and thumbnails on it."""

    report: bool = True  # summary/report.html
    thumbnails: bool = True  # they show patients, and are read from the archive


@dataclass(frozen=True, kw_only=True)
class Explain(_Spec):
    """Which images of a run get a map of where their score came from."""

    which: Literal["first", "review", "all"] = "first"  # first: of the page and of the review list, in their order
    most: int | None = None  # of the first ones; None: all of them

    @classmethod
    def parse(cls, text: str) -> "Explain":
        """Parse `40`, `review` or `all`. Raises `BadRequest`."""
        word = text.strip().lower()
        if word in ("review", "all"):
            return cls(which="review" if word == "review" else "all")
        _require(
            word.isascii() and word.isdigit() and 1 <= int(word) <= 1_000_000,
            f"--explain is {text!r}; give a number of images such as 100, review or all",
        )
        return cls(most=int(word))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(_Spec):
    """Options of `score` beside its inputs, model and output."""

    workers: int | None = None  # scoring processes; None: as many as the cluster holds
    batch_size: int | None = None  # images in one forward pass; None: the fastest size for the device
    shard_size: int | None = None  # images in a shard; None: about 1,000, fewer for small inputs
    max_failed: MaxFailed = field(default_factory=lambda: MaxFailed(share=0.01))
    include: tuple[str, ...] = ()  # globs over the path below the input; empty: all files
    exclude: tuple[str, ...] = ()
    labels_may_miss: bool = False  # a label file may name images that are not in the input
    any_suffix: bool = False  # also files whose names tell no format are scored, if their first bytes are an image's
    keep_columns: tuple[str, ...] = ()  # columns of file lists that are copied to the predictions
    group_by: str | tuple[str, ...] | None = None  # one level or several, see `inputs.image_files.GroupLevels`
    series_by: str | None = None  # what makes a series of images without a header: folder, or a regular expression
    precision: Precision = "auto"
    stall_timeout_s: float = 600.0  # the run ends after so long without a finished shard
    max_file_bytes: int = 1 << 30  # larger files, and larger members of archives, get the row `too_large` unread
    max_unread: float = 0.5  # a greater share of failed reads counts as an outage; 1.0: never
    all_series: bool = False  # also medical images are scored that the model does not know, such as localisers
    keep_uids: bool = False  # rows have the UIDs of medical images as they are
    uid_key: str | None = None  # file of the key by which rows have hashes of the UIDs
    pseudonymise_uris: str | None = None  # folder that keeps the names of the input, of which the run has pseudonyms
    volumes: str = "first"  # of NIfTI files with several: first, all, or the number of one, from 0
    retry_unread: bool = False  # read the images again that an earlier run could not read
    forget_missing: bool = False  # drop the rows of images that are no longer there
    rescore: bool = False  # score all images anew; the old run is replaced when the new one is complete
    explain: Explain | None = None  # which images get a map of where their score came from
    report: bool = True  # see `PageOptions`
    thumbnails: bool = True

    def __post_init__(self) -> None:
        _require(self.workers is None or self.workers >= 1, f"--workers is {self.workers}; it must be 1 or more")
        batch = self.batch_size
        _require(batch is None or batch >= 1, f"--batch-size is {batch}; it must be 1 or more")
        size = self.shard_size
        _require(size is None or 1 <= size <= 100_000, f"--shard-size is {size}; it must be from 1 to 100000")
        _one_of("--precision", self.precision, Precision)
        if self.series_by not in (None, "folder"):
            pattern_of("--series-by", str(self.series_by))
        _require(self.stall_timeout_s > 0, f"--stall-timeout is {self.stall_timeout_s}; it must be above 0")
        _require(self.max_file_bytes >= 1, f"--max-file-size is {self.max_file_bytes} bytes; it must be 1 or more")
        _require(
            self.volumes in ("first", "all") or (self.volumes.isdecimal() and len(self.volumes) <= 5),
            f"--volumes is {self.volumes!r}; give first, all, or the number of a volume, from 0",
        )
        _require(0 <= self.max_unread <= 1, f"--max-unread is {self.max_unread:%}; it must lie between 0% and 100%")

    @property
    def page(self) -> PageOptions:
        return PageOptions(report=self.report, thumbnails=self.thumbnails)
