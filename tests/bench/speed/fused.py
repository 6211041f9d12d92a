"""What fusing a network's operators saves on one processor core, and whether it changes what the network says.

    .venv/bin/python tests/bench/speed/fused.py [--model shipped] [--bf16] [--rounds 4]

The network of a bundle, and the encoder of features, run in turn with and without fused operators, on one thread and
with the memory settings of a worker. Printed are milliseconds of processor an image, and the largest difference.
"""

import argparse
import os
import time
from collections.abc import Callable
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["THP_MEM_ALLOC_ENABLE"] = "1"

import numpy as np
import torch
from torch import Tensor

from brainray.machine.hardware import keep_freed_memory
from brainray.models import encoder, fusion
from brainray.models.bundle import load_bundle, load_model
from brainray.models.fusion import prepare_for_inference

BATCH, TIMES = 32, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--bf16", action="store_true", help="compute the network in bf16; the encoder stays in fp32")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    bundle = load_bundle(options.model)
    fused, plain = both(lambda: prepare_for_inference(load_model(bundle), torch.device("cpu"), bf16=options.bf16))
    side = bundle.image.image_px
    images = torch.randn(BATCH, bundle.image.channels, side, side).contiguous(memory_format=torch.channels_last)
    compare(options.model, fused, plain, images.bfloat16() if options.bf16 else images, options.rounds)
    fused, plain = both(lambda: encoder.frozen_encoder.__wrapped__()._means)
    pixels = np.random.default_rng(0).integers(0, 255, (BATCH, side, side), dtype=np.uint8)
    compare("encoder", fused, plain, encoder.fitted(torch.from_numpy(pixels)), options.rounds)


def both(prepare: Callable[[], torch.nn.Module]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network with fused operators, and the same without."""
    with patch.object(fusion, "fused_runs", lambda *, bf16: False):
        plain = prepare()
    return prepare(), plain


@torch.inference_mode()
def compare(name: str, fused: torch.nn.Module, plain: torch.nn.Module, images: Tensor, rounds: int) -> None:
    """Print what both take, in turn, and how far apart their outputs are."""
    apart = float((fused(images).float() - plain(images).float()).abs().max())
    for _ in range(rounds):
        print(f"{name}: {spent_ms(plain, images):.2f} ms an image plain, {spent_ms(fused, images):.2f} ms fused")
    print(f"{name}: largest difference {apart:g}")


def spent_ms(network: torch.nn.Module, images: Tensor) -> float:
    """Milliseconds of processor an image."""
    began = time.process_time()
    for _ in range(TIMES):
        network(images)
    return 1e3 * (time.process_time() - began) / TIMES / len(images)


if __name__ == "__main__":
    main()
