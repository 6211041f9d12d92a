"""What images look like, counted: brightness, contrast and size of those of a run, or of those a model was measured on.

Counts add up, so that memory does not grow with the number of images.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .metrics import population_stability

Ints = npt.NDArray[np.int64]

# Lower ends of the bins; the last one has no upper end. Brightness and contrast are mean and spread of pixels, 0 to 1,
# and no spread is above a half.
LOWER_ENDS: Mapping[str, tuple[float, ...]] = {
    "brightness": tuple(k / 20 for k in range(20)),
    "contrast": tuple(k / 40 for k in range(20)),
    "longest_side_px": (0, 128, 256, 384, 512, 768, 1024, 2048),
}


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Images by each of `LOWER_ENDS`; an image of which something is not known is left out there."""

    counts: Mapping[str, Ints]

    @classmethod
    def of(cls, values: Mapping[str, npt.ArrayLike]) -> Self:
        """Count values by the name of their bins; NaN is not known. Names without values count nothing."""
        return cls(counts={name: _count(values.get(name, ()), ends) for name, ends in LOWER_ENDS.items()})

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """The sum; of one part or more."""
        each = [part.counts for part in parts]
        return cls(counts={name: np.sum([part[name] for part in each], axis=0) for name in LOWER_ENDS})

    def figures(self) -> dict[str, Any]:
        """For JSON: the lower ends of the bins and their images, by name; null where no image is known."""
        return {
            name: {"from": list(ends), "images": self.counts[name].tolist()} if self.counts[name].any() else None
            for name, ends in LOWER_ENDS.items()
        }

    def drift(self, reference: Mapping[str, Any] | None) -> dict[str, float]:
        """PSI of each that is known here and in `reference`, which are `figures` of other images over these bins."""
        found = {}
        for name, ends in LOWER_ENDS.items():
            known = (reference or {}).get(name)
            if known and known["from"] == list(ends) and self.counts[name].any():
                found[f"{name.removesuffix('_px')}_psi"] = population_stability(known["images"], self.counts[name])
        return found


def _count(values: npt.ArrayLike, ends: tuple[float, ...]) -> Ints:
    """[B] the values in each bin."""
    found = np.asarray(values, np.float64)
    bins = np.searchsorted(np.array(ends), found[~np.isnan(found)], side="right") - 1
    return np.bincount(np.maximum(bins, 0), minlength=len(ends)).astype(np.int64)
