"""Versions of the libraries that can change a result, for provenance and to compare the nodes of a cluster.

A library belongs here when it reads, decodes, crops or normalises an image, or predicts or learns from one.
`tests/models/test_versions.py` finds libraries that are missing here.
"""

from collections.abc import Sequence
from functools import cache
from importlib import metadata

from brainray import __version__
from brainray.imaging.decoding import DECODING, NAME

# Import name -> names of the distributions that provide it, any of which may be installed. The first is the one that
# brainray requires, and the name used in records.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "PIL": ("pillow",),
    "cv2": (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ),
    "scipy": ("scipy",),
    "sklearn": ("scikit-learn",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "pyarrow": ("pyarrow",),
    "obstore": ("obstore",),
    "botocore": ("botocore",),
    "safetensors": ("safetensors",),
    "pydicom": ("pydicom",),
    "pylibjpeg": ("pylibjpeg",),
    "openjpeg": ("pylibjpeg-openjpeg",),
    "jpeg_ls": ("pyjpegls",),
    "gdcm": ("python-gdcm",),
    "nibabel": ("nibabel",),
    "pi_heif": ("pi_heif",),
}
OPTIONAL = (
    "pydicom",
    "pylibjpeg",
    "openjpeg",
    "jpeg_ls",
    "gdcm",
    "nibabel",
    "pi_heif",
)  # of an extra; noted where it is installed
DISTRIBUTIONS: tuple[tuple[str, ...], ...] = tuple(LIBRARIES.values())


def installed_version(distributions: Sequence[str]) -> str | None:
    """The version of the first of these distributions that is installed; None if none is."""
    return next((found.version for name in distributions for found in metadata.distributions(name=name)), None)


def package_versions() -> dict[str, str]:
    """Distribution -> version, for brainray, its decoding, Ray and every library here; for run.json and bundles."""
    return {"brainray": __version__, NAME: str(DECODING)} | dict(_library_versions())


@cache
def _library_versions() -> tuple[tuple[str, str], ...]:
    """Looked up once a process, which imports what was installed when it began."""
    needed = [("ray",), *(names for library, names in LIBRARIES.items() if library not in OPTIONAL)]
    extra = [(names[0], installed_version(names)) for names in map(LIBRARIES.__getitem__, OPTIONAL)]
    return (
        *((names[0], installed_version(names) or "unknown") for names in needed),
        *((name, version) for name, version in extra if version is not None),
    )
