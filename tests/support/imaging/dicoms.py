"""Draws DICOM files: a slice, its header, in any transfer syntax that pydicom writes."""

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from brainray.imaging.phantom import draw

AXIAL = [1, 0, 0, 0, 1, 0]
LEVELS = 16  # by which a value of the 8-bit picture becomes one of 12 bits


@cache
def _drawn(seed: int) -> NDArray[np.uint8]:
    picture, _ = draw(0, seed)
    return picture if picture.ndim == 2 else picture[..., 0]


def slice_pixels(side: int = 64, seed: int = 1) -> NDArray[np.uint16]:
    """A drawn slice with values of 12 bits, [side, side]."""
    grey = _drawn(seed)
    down, across = (np.arange(side) * length // side for length in grey.shape)
    return (grey[np.ix_(down, across)].astype(np.uint16)) * LEVELS


def data_set(pixels: NDArray[Any], **attributes: Any) -> Dataset:
    """The data set of an MR slice, or of several frames [N, H, W]; `attributes` replace those that it has by itself."""
    frames = pixels if pixels.ndim == 3 and pixels.shape[-1] != 3 else pixels[None]
    colours = 3 if pixels.ndim == 3 and pixels.shape[-1] == 3 else 1
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = MRImageStorage, "1.2.826.0.1.3680043.8.498.1"
    made.Modality, made.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
    made.ImageOrientationPatient = AXIAL
    made.Rows, made.Columns = frames.shape[1:3]
    made.SamplesPerPixel = colours
    made.PhotometricInterpretation = "RGB" if colours == 3 else "MONOCHROME2"
    if colours == 3:
        made.PlanarConfiguration = 0
    if len(frames) > 1:
        made.NumberOfFrames = len(frames)
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = 12 if made.BitsAllocated == 16 else made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    for name, value in attributes.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def dicom(
    pixels: NDArray[Any] | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    *,
    preamble: bool = True,
    **attributes: Any,
) -> bytes:
    """The bytes of an MR slice in a transfer syntax."""
    return written(data_set(slice_pixels() if pixels is None else pixels, **attributes), syntax, preamble=preamble)


def written(made: Dataset, syntax: UID = ExplicitVRLittleEndian, *, preamble: bool = True) -> bytes:
    """The bytes of a data set in a transfer syntax; compressed where that is one that compresses."""
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.get("SOPClassUID", MRImageStorage)
    made.file_meta.MediaStorageSOPInstanceUID = made.get("SOPInstanceUID", "1.2.3")
    compressed = syntax.is_encapsulated
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else syntax
    if compressed:
        made.compress(syntax, generate_instance_uid=False)
    sink = io.BytesIO()
    if preamble:
        dcmwrite(sink, made, enforce_file_format=True)
        return sink.getvalue()
    del made.file_meta
    dcmwrite(sink, made, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return sink.getvalue()


def items(*each: dict[str, Any]) -> Items:
    """A sequence of items with these attributes."""
    made = []
    for attributes in each:
        item = Dataset()
        for name, value in attributes.items():
            setattr(item, name, value)
        made.append(item)
    return Items(made)
