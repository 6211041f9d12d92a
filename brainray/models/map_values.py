"""Maps of images as values: of some classes of each image, by falling probability. Needs no torch.

Axes: N images, C classes of an image, h and w rows and columns of the grid.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_CLASSES = 8  # of an image: those with the highest probabilities

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMaps:
    """The mean of a map plus its bias is its logit."""

    order_NC: npt.NDArray[np.int64]  # indices of the classes: the predicted one, the runner-up, ...
    values_NChw: npt.NDArray[np.float16]
    logits_NC: Floats
    biases_NC: Floats

    def __len__(self) -> int:
        return len(self.order_NC)

    def take(self, places: npt.NDArray[np.int64]) -> "ImageMaps":
        """The maps of some images."""
        return ImageMaps(
            order_NC=self.order_NC[places],
            values_NChw=self.values_NChw[places],
            logits_NC=self.logits_NC[places],
            biases_NC=self.biases_NC[places],
        )

    @classmethod
    def joined(cls, parts: "list[ImageMaps]") -> "ImageMaps":
        """The images of all parts, of one or more."""
        return cls(
            order_NC=np.concatenate([part.order_NC for part in parts]),
            values_NChw=np.concatenate([part.values_NChw for part in parts]),
            logits_NC=np.concatenate([part.logits_NC for part in parts]),
            biases_NC=np.concatenate([part.biases_NC for part in parts]),
        )


def class_order(probs_NK: Floats) -> npt.NDArray[np.int64]:
    """[N, C] the classes with the highest probabilities, in the order in which predictions take them."""
    return np.argsort(-probs_NK, axis=1, kind="stable")[:, :MOST_CLASSES]
