"""Images a second of `brainray score` beside what one would write with other tools, on the same images and weights.

    .venv/bin/python tests/bench/speed/peers.py --images FOLDER --model BUNDLE [--number 2000] [--only NAME]

Contestants take turns, each in a fresh process with its start counted, and each writes Parquet:

    brainray     `brainray score`
    dataloader   a PyTorch DataLoader, one process a core, that opens images with Pillow; the forward pass in the parent
    ray-data     the documented pattern of Ray Data: read_images, map, an actor pool with map_batches, write_parquet
    daft         download, decode_image, a class UDF with the network; needs `uv pip install daft` (0.7)

Printed are the medians, the ratio of brainray's rate to that of each, and what each did with a file that is no image.
A contestant that fails, or takes longer than `--timeout-s`, is named with the last line of what it wrote.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import results

BATCH = 64


class Network:
    """The network of a bundle for images of its size, as one writes it by hand."""

    def __init__(self, model: str, threads: int) -> None:
        import torch

        from brainray.models.bundle import load_bundle, load_model, named
        from brainray.models.predictor import use_bf16

        torch.set_num_threads(threads)
        self.bundle = load_bundle(named(model))
        self._network = load_model(self.bundle).to(memory_format=torch.channels_last).eval()
        self._bf16 = use_bf16("auto", torch.device("cpu"))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[N, px, px] uint8 -> the number of the class of each [N]."""
        import torch

        from brainray.models.predictor import normalise

        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._network(normalise(torch.from_numpy(images), self.bundle.image))
        return logits.float().argmax(1).numpy()


def opened(path: str, px: int) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.pad(image.convert("L"), (px, px)))


def image_px(model: str) -> int:
    from brainray.models.bundle import load_bundle, named

    return load_bundle(named(model)).image.image_px


class Files:
    """A data set of PyTorch."""

    def __init__(self, paths: list[str], px: int) -> None:
        self._paths, self._px = paths, px

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[str, np.ndarray]:
        return self._paths[number], opened(self._paths[number], self._px)


def dataloader(folder: str, model: str, output: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from torch.utils.data import DataLoader

    cores = len(os.sched_getaffinity(0))
    network = Network(model, cores)
    files = Files(sorted(str(path) for path in Path(folder).iterdir()), network.bundle.image.image_px)
    paths: list[str] = []
    found: list[int] = []
    for names, images in DataLoader(files, batch_size=BATCH, num_workers=cores):  # type: ignore[arg-type]
        paths += names
        found += network(images.numpy()).tolist()
    pq.write_table(pa.table({"uri": paths, "predicted": found}), f"{output}/rows.parquet")


class RayPredictor:
    """The actor of Ray's documented pattern."""

    def __init__(self, model: str) -> None:
        self._network = Network(model, 1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"uri": batch["path"], "predicted": self._network(np.stack(batch["image"]))}


def ray_data(folder: str, model: str, output: str) -> None:
    import ray

    px = image_px(model)

    def resized(row: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image, ImageOps

        return {"path": row["path"], "image": np.asarray(ImageOps.pad(Image.fromarray(row["image"]), (px, px)))}

    cores = len(os.sched_getaffinity(0))
    ray.init(include_dashboard=False, log_to_driver=False)
    dataset = ray.data.read_images(folder, mode="L", include_paths=True).map(resized)
    actors = ray.data.ActorPoolStrategy(size=max(1, cores - 1))  # one for each core would leave none to read with
    dataset.map_batches(
        RayPredictor, fn_constructor_args=(model,), batch_size=BATCH, compute=actors, num_cpus=1
    ).write_parquet(output)


def daft(folder: str, model: str, output: str) -> None:
    import daft as df
    from daft import DataType, col
    from daft.functions import decode_image, download, resize

    px = image_px(model)

    @df.udf(return_dtype=DataType.int64(), batch_size=BATCH)
    class Predict:
        def __init__(self) -> None:
            self._network = Network(model, len(os.sched_getaffinity(0)))

        def __call__(self, images: Any) -> list[int]:
            return self._network(np.stack([np.asarray(each).reshape(px, px) for each in images.to_pylist()])).tolist()

    frame = df.from_glob_path(f"{folder}/*")
    image = resize(decode_image(download(col("path")), mode="L"), px, px)
    frame.with_column("predicted", Predict(image)).select("path", "predicted").write_parquet(output)


def brainray(folder: str, model: str, output: str) -> None:
    command = [sys.executable, "-m", "brainray", "score", "--input", folder, "--output", f"{output}/run"]
    command += ["--model", model, "--max-failed", "100%"]
    subprocess.run(command, env=os.environ | {"RAY_ADDRESS": "local"}, check=True)


CONTESTANTS = {"brainray": brainray, "dataloader": dataloader, "ray-data": ray_data, "daft": daft}


def rows_of(output: str) -> int:
    import pyarrow.parquet as pq

    parts = Path(output, "run", "predictions")
    files = (parts if parts.is_dir() else Path(output)).rglob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def attempt(name: str, folder: str, model: str, *, timeout_s: float) -> tuple[float, int, str]:
    """The seconds, the rows, and what went wrong; "" for nothing."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, __file__, "--contestant", name, folder, model, output]
        began = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return timeout_s, rows_of(output), f"no end within {timeout_s:g} s"
        seconds = time.perf_counter() - began
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        wrong = (lines[-1][:160] if lines else f"code {done.returncode}") if done.returncode else ""
        return seconds, rows_of(output), wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout-s", type=float, default=900)
    results.add_option(parser)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    options = parser.parse_args()
    found = sorted(p for p in Path(options.images).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = found[:: max(1, len(found) // options.number)][: options.number]
    seconds: dict[str, list[float]] = {name: [] for name in options.only}
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as spoilt:
        for number, path in enumerate(chosen):
            shutil.copy(path, f"{folder}/{number:06d}{path.suffix.lower()}")
        for path in sorted(Path(folder).iterdir())[:20]:
            shutil.copy(path, spoilt)
        Path(spoilt, "zz.jpg").write_bytes(b"no image")
        for _ in range(options.rounds):
            for name in options.only:
                spent_s, rows, failure = attempt(name, folder, options.model, timeout_s=options.timeout_s)
                if failure or rows != len(chosen):
                    wrong[name] = failure or f"{rows} rows of {len(chosen)}"
                seconds[name].append(spent_s)
                print(f"{name:12} {spent_s:7.1f} s {rows / spent_s:8.0f} images/s  {wrong.get(name, '')}", flush=True)
        own_s = statistics.median(seconds[options.only[0]])
        figures = []
        print(
            f"\n{'contestant':12} {'images/s':>9} {options.only[0] + ' over it':>18}  20 images and a file that is none"
        )
        for name in options.only:
            median_s = statistics.median(seconds[name])
            _, rows, failure = attempt(name, spoilt, options.model, timeout_s=options.timeout_s)
            rate = (
                f"{len(chosen) / median_s:9.0f} {median_s / own_s:18.2f}"
                if name not in wrong
                else f"{'failed':>9} {'':18}"
            )
            print(f"{name:12} {rate}  {rows} rows{'; ' if failure else ''}{failure}", flush=True)
            if name not in wrong:
                ratio = None if name == options.only[0] else median_s / own_s
                what = f"{name}, {len(chosen):,} images, {Path(options.model).name}"
                figures.append(results.Figure(what, len(chosen) / median_s, "images/s", ratio))
    results.record(options, "peers", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contestant"]:
        CONTESTANTS[sys.argv[2]](*sys.argv[3:])
    else:
        main()
