"""Fits the stem of lite0-fast to the first layers of lite0 with ImageNet weights, on MRI slices without their labels.

    .venv/bin/python tests/bench/fit_stem.py --data FOLDER --output brainray/models/lite_fast_stem.safetensors

The loss is the squared error of the features, each channel by its own variance. It prints the share of the variance
that is not explained yet. The first layer is that of lite0. 3,000 steps take a quarter of an hour on one processor.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from brainray.config import ImageSpec, TrainOptions
from brainray.models.lite_fast import plain_stem, replaced_layers
from brainray.models.predictor import planes, standardise, use_bf16
from brainray.training.augment import augment
from brainray.training.dataset import list_training_set
from brainray.training.decoded import decode_rows
from brainray.training.loop import make_optimizer, make_schedule
from brainray.training.outliers import outliers

IMAGES, OUTLIERS = 28, 4  # in a step
PRINTED = 100  # steps between two lines


def batches(data: str, spec: ImageSpec, *, steps: int, seed: int):
    """Augmented images and outliers, as a network in training sees them."""
    pixels = decode_rows(list_training_set(data).table, spec)["pixels"]
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.from_numpy(pixels[rng.choice(len(pixels), IMAGES, replace=False)])
        images = planes(chosen).float() / 255
        both = [augment(images, generator), outliers(images, OUTLIERS, generator)]
        yield standardise(torch.cat(both), spec)


def fit(data: str, output: str, *, image_px: int, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    options = TrainOptions(model="lite0-fast", weights="imagenet", image_px=image_px, lr=4e-3, weight_decay=0.0)
    teacher, stem = replaced_layers(), plain_stem(1).to(memory_format=torch.channels_last)
    stem[:2].load_state_dict(teacher[0][:2].state_dict())
    optimizer = make_optimizer(stem, options)
    schedule = make_schedule(optimizer, total_steps=steps, warmup_fraction=0.05)
    bf16 = use_bf16("auto", torch.device("cpu"))
    began, losses, variance = time.perf_counter(), [], None
    for step, images in enumerate(batches(data, options.image_spec, steps=steps, seed=seed), 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                wanted = teacher(images).float()
            given = stem(images).float()
        variance = wanted.var((0, 2, 3), keepdim=True) if variance is None else variance
        loss = ((given - wanted) ** 2 / variance).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
        if step % PRINTED == 0:
            rate = step * (IMAGES + OUTLIERS) / (time.perf_counter() - began)
            print(f"{step}/{steps}: {np.mean(losses[-PRINTED:]):.3f} unexplained, {rate:.0f} images/s", flush=True)
    state = {name: t.half() if t.is_floating_point() else t for name, t in stem.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of class folders; the classes are not used")
    parser.add_argument("--output", required=True)
    parser.add_argument("--image-px", type=int, default=160)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    fit(given.data, given.output, image_px=given.image_px, steps=given.steps, seed=given.seed)


if __name__ == "__main__":
    main()
