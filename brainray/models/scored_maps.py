"""Maps from the forward pass that scores: the probabilities of images, and with them where each score came from.

`maps` computes maps alone, in fp32. These are of the precision that scores, and cost one small product a batch; the
probabilities are those of the predictor, to the last digit.
"""

import numpy as np
import torch
from torch import Tensor, fx

from .map_values import Floats, ImageMaps, class_order
from .maps import Images, refusal, with_features
from .predictor import Predictor


class MappingPredictor:
    """Scores images as its predictor does, and maps them. Raises `BadRequest` for a network without exact maps."""

    def __init__(self, predictor: Predictor, name: str) -> None:
        """`name` of the network is for the error."""
        if not isinstance(predictor.network, fx.GraphModule):
            raise refusal(name)
        self._predictor = predictor
        self._network, last = with_features(predictor.network, name)
        self._weight_KC = last.weight.detach().float()
        self._bias_K = (
            last.bias.detach().float() if last.bias is not None else self._weight_KC.new_zeros(len(last.weight))
        )

    def __call__(self, images: Images) -> tuple[Floats, ImageMaps | None]:
        """The probabilities [N, K] of uint8 images, and their maps; None for no image."""
        probs_NK = np.empty((len(images), self._predictor.classes), np.float32)
        maps = []
        for place, batch in self._predictor.batches(images):
            probs_NK[place], made = self._forward(batch, place.stop - place.start)
            maps.append(made)
        return probs_NK, ImageMaps.joined(maps) if maps else None

    @torch.inference_mode()
    def _forward(self, images: Tensor, number: int) -> tuple[Floats, ImageMaps]:
        """Of the first images of a batch."""
        features_NFhw, logits_NK = self._network(self._predictor.input_of(images))
        probs_NK = self._predictor.probabilities(logits_NK)[:number].cpu().numpy()
        order_NC = class_order(probs_NK)
        chosen = torch.from_numpy(order_NC).to(self._predictor.device)
        features = features_NFhw[:number].float()
        maps_NCP = self._weight_KC[chosen] @ features.flatten(2)
        biases_NC = self._bias_K[chosen]
        logits_NC = maps_NCP.mean(2) + biases_NC
        return probs_NK, ImageMaps(
            order_NC=order_NC,
            values_NChw=maps_NCP.unflatten(2, features.shape[2:]).half().cpu().numpy(),
            logits_NC=logits_NC.cpu().numpy(),
            biases_NC=biases_NC.cpu().numpy(),
        )
