"""Decodes damaged images for as long as wanted: counts crashes, foreign errors, slow images, and peaks of memory.

    .venv/bin/python tests/bench/fuzz_readers.py --seconds 3600 --seed 1 --keep /tmp/found

A process of its own decodes, under the limit of memory of the decoder's sandbox; one that dies is replaced, and the
image that it had is kept in the folder `--keep`, as are those that were slow or raised what no reader may raise.
"""

import argparse
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.imaging.hostile import damaged, sound_images, watched

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, luminance, read_header
from brainray.imaging.sandbox import most_bytes_for

SPEC = ImageSpec(image_px=32)
SLOW_S = 2.0  # of processor, for one image


def child(seconds: float, seed: int, keep: Path) -> None:
    """Decode until the time is over; prints a line for each finding, and counts at the end."""
    images, chance = sound_images(), random.Random(seed)
    for content in images.values():
        decode_all(content)
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes_for(SPEC),) * 2)
    counts: Counter[str] = Counter()
    peak, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = chance.choice(list(images))
        content = damaged(images[name], chance)
        (keep / "current").write_bytes(content)
        began_s = time.process_time()
        with watched() as opened:
            told = decode_all(content)
        took_s = time.process_time() - began_s
        slowest = max(slowest, took_s)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts["images"] += 1
        for what in (
            told,
            f"slow {took_s:.1f} s" if took_s > SLOW_S else None,
            f"memory {grown >> 10} MB" if grown > 1.5 * peak else None,
            f"opened {opened[0]}" if opened else None,
        ):
            if what is not None:
                counts[what.split()[0]] += 1
                (keep / f"{what.split()[0]}-{counts['images']}-{seed}-{name.replace(' ', '_')}").write_bytes(content)
                print(f"{name}: {what}", flush=True)
        peak = max(peak, grown)
    print(f"seed {seed}: {dict(counts)}, slowest {slowest:.2f} s, peak {peak >> 10} MB", flush=True)


def decode_all(content: bytes) -> str | None:
    """What was raised beside the errors of images; None where nothing was."""
    for read in (lambda: decode(content, SPEC), lambda: luminance(content), lambda: read_header(content)):
        try:
            read()
        except ImageError:
            pass
        except Exception as exc:  # noqa: BLE001  that is what is looked for
            return f"raised {type(exc).__name__}: {exc}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("found"))
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    if given.child:
        child(given.seconds, given.seed, given.keep)
        return
    end, seed = time.monotonic() + given.seconds, given.seed
    while (left := end - time.monotonic()) > 1:
        again = [sys.executable, __file__, "--child", "--seconds", f"{min(left, 600):.0f}", "--seed", str(seed)]
        done = subprocess.run([*again, "--keep", str(given.keep)], check=False)
        if done.returncode:
            print(f"seed {seed}: the process ended with {done.returncode}", flush=True)
            (given.keep / "current").rename(given.keep / f"crash-{seed}")
        seed += 1


if __name__ == "__main__":
    main()
