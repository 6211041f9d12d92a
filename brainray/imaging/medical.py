"""Medical images: formats whose header tells what was imaged, so that it may exclude the picture."""

from typing import Protocol

from brainray.inputs.frames.nifti.file import is_nifti_file
from brainray.inputs.frames.nifti.slice_file import is_slice

from .dicom.image import FORMAT as DICOM
from .dicom.image import DicomImage
from .dicom.magic import is_dicom
from .dicom.pixels import Picture
from .dicom.series import Exclusion, SeriesFacts
from .nifti.image import FORMAT as NIFTI
from .nifti.image import NiftiImage


class MedicalImage(Protocol):
    """A medical image whose header was read."""

    @property
    def facts(self) -> SeriesFacts: ...
    @property
    def exclusion(self) -> Exclusion | None: ...  # why it is none that the model knows
    @property
    def width(self) -> int | None: ...
    @property
    def height(self) -> int | None: ...
    @property
    def format(self) -> str: ...
    def picture(self, least: tuple[int, int] | None = None) -> Picture:
        """The picture; where that is faster, in a reduced size no smaller than `least` (width, height).

        Raises `ImageError`.
        """


def medical_format(data: bytes) -> str | None:
    """The format of a medical image by its first bytes; None for any other file."""
    if is_dicom(data):
        return DICOM
    return NIFTI if is_slice(data) or is_nifti_file(data) else None


def open_medical(data: bytes, max_pixels: int) -> MedicalImage:
    """Read the header of an image of a `medical_format`. Raises `ImageError`."""
    return DicomImage.open(data, max_pixels) if is_dicom(data) else NiftiImage.open(data, max_pixels)
