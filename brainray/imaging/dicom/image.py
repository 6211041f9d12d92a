"""A DICOM file as an image: what its header tells, and its picture, which is unpacked only when it is asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .header import as_image_error, count_of, read_header
from .pixels import Picture, picture
from .series import Exclusion, SeriesFacts, describe

if TYPE_CHECKING:
    from pydicom import Dataset

FORMAT = "DICOM"
_BYTES_PER_PIXEL = 4  # 16 bits, and as much again for the header: limits what a deflated file may unpack to


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DicomImage:
    """A DICOM file whose header was read."""

    facts: SeriesFacts
    exclusion: Exclusion | None  # why it is none that the model knows
    width: int | None
    height: int | None
    format: str = FORMAT
    _dataset: "Dataset"
    _max_pixels: int

    @classmethod
    def open(cls, data: bytes, max_pixels: int) -> Self:
        """Read the header. Raises `ImageError`."""
        dataset = read_header(data, most_inflated=_BYTES_PER_PIXEL * max_pixels)
        with as_image_error("truncated", "its DICOM header cannot be read"):
            facts, exclusion = describe(dataset)
            return cls(
                facts=facts,
                exclusion=exclusion,
                width=count_of(dataset, "Columns") or None,
                height=count_of(dataset, "Rows") or None,
                _dataset=dataset,
                _max_pixels=max_pixels,
            )

    def picture(self, least: tuple[int, int] | None = None) -> Picture:
        """The picture; where that is faster, in a reduced size no smaller than `least` (width, height).

        Raises `ImageError`.
        """
        found = picture(self._dataset, self._max_pixels, least)
        found.image.format = FORMAT
        return found
