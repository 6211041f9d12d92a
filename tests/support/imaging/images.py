"""Drawn pictures as files."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from support.models.bundles import CLASSES


@cache
def image_bytes(seed: int = 0, *, size: tuple[int, int] = (40, 48), mode: str = "L", kind: str = "JPEG") -> bytes:
    """A smooth drawn picture; another seed, another picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def draw_archive(root: Path, images: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """Draws so many images into each class folder, no two alike, and gives the folder."""
    for k, folder in enumerate(classes):
        (root / folder).mkdir(parents=True)
        for i in range(images):
            (root / folder / f"{i}.jpg").write_bytes(image_bytes(1000 * k + i))
    return root
