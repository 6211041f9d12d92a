"""Drawn pictures as files."""

import io
from functools import cache

import numpy as np
from PIL import Image


@cache
def image_bytes(seed: int = 0, *, size: tuple[int, int] = (40, 48), mode: str = "L", kind: str = "JPEG") -> bytes:
    """A smooth drawn picture; another seed, another picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, kind)
    return buffer.getvalue()
