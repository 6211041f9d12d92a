"""Images a second of `brainray score` that reads from a bucket, beside a loop of GETs with the same client.

    .venv/bin/python tests/bench/speed/s3_vs_plain_loop.py --images FOLDER [--rounds 3] [--repeat 1] [--delay-ms 0]

The folder's images are put into a bucket of a local rclone server, `--repeat` times under other names, and scored by an
untrained model. The contestants take turns, each in fresh processes: `brainray score`; and a loop, one process a core,
as one writes it by hand: obstore, eight GETs in flight, brainray's own decoder and predictor, one Parquet file a
process. Two ratios are printed: with the start counted, and without, which is what a large archive sees: summary.json's
throughput against the loop without imports and the making of the model. `--delay-ms` holds up the middle of every body
by a proxy, which costs processors itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import results
from support.models.bundles import untrained

BUCKET = "bench"
BATCH = 64
GETS_IN_FLIGHT = 8


def worker(model: str, output: str, share: int, of: int) -> None:
    """One process of the loop: every `of`-th image of the listing that lies in the output."""
    import numpy as np
    import obstore
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from obstore.store import S3Store

    from brainray.imaging.decode import decode
    from brainray.models.bundle import load_bundle
    from brainray.models.predictor import Predictor

    torch.set_num_threads(1)
    bundle = load_bundle(model)
    predict = Predictor(bundle)
    store = S3Store(
        BUCKET,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    keys = Path(output, "keys").read_text().split("\n")[share::of]
    began = time.perf_counter()
    probs = []
    with ThreadPoolExecutor(GETS_IN_FLIGHT) as pool:
        contents = pool.map(lambda key: obstore.get(store, key).bytes().to_bytes(), keys)
        for start in range(0, len(keys), BATCH):
            pixels = [decode(next(contents), bundle.image).pixels for _ in keys[start : start + BATCH]]
            probs.append(predict(np.stack(pixels)))
    columns = {f"prob_{name}": np.concatenate(probs)[:, k] for k, name in enumerate(bundle.classes)}
    pq.write_table(pa.table({"uri": keys} | columns), f"{output}/{share}.parquet")
    Path(output, f"{share}.seconds").write_text(str(time.perf_counter() - began))


def run_loop(model: str) -> float:
    """Seconds of the slowest process without its start. The listing is made once, and counted."""
    import obstore
    from obstore.store import S3Store

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        store = S3Store(
            BUCKET,
            endpoint=os.environ["AWS_ENDPOINT_URL"],
            region=os.environ["AWS_DEFAULT_REGION"],
            client_options={"allow_http": True},
        )
        keys = [found["path"] for page in obstore.list(store, "in/") for found in page]
        Path(output, "keys").write_text("\n".join(sorted(keys)))
        listing_s = time.perf_counter() - began
        command = [sys.executable, __file__, "--worker", model, output]
        processes = [subprocess.Popen([*command, str(i), str(cores)]) for i in range(cores)]
        if any(process.wait(timeout=3600) for process in processes):
            raise SystemExit("a process of the loop failed")
        return listing_s + max(float(path.read_text()) for path in Path(output).glob("*.seconds"))


def run_brainray(model: str) -> float:
    """Seconds in which workers were busy, by summary.json."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "brainray", "score", "--input", f"s3://{BUCKET}/in", "--model", model]
        command += ["--output", f"{output}/run", "--max-failed", "100%"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        if done.returncode:
            raise SystemExit(done.stderr)
        summary = json.loads(Path(output, "run", "summary", "summary.json").read_text())
        return summary["throughput"]["seconds"]


@contextmanager
def bucket(folder: str, repeat: int, delay_ms: float) -> Iterator[int]:
    """The images behind a server whose place is in the environment, and how many they are."""
    from support.storage import s3_servers

    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with tempfile.TemporaryDirectory() as scratch, s3_servers.rclone(scratch) as endpoint:
        for number in range(repeat):
            for path in files:
                target = Path(scratch, BUCKET, "in", str(number), path.relative_to(folder))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        proxy = None
        if delay_ms:
            proxy = s3_servers.Proxy(endpoint)
            proxy.add("slow", key=r"/in/.*\.\w+$", delay_s=delay_ms / 1000)
        os.environ.update(s3_servers.s3_environment(proxy.endpoint if proxy else endpoint))
        yield repeat * len(files)
        if proxy:
            proxy.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--delay-ms", type=float, default=0)
    results.add_option(parser)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        bucket(options.images, options.repeat, options.delay_ms) as images,
    ):
        model = untrained(f"{folder}/model", image_px=160).uri
        contestants = {"brainray": run_brainray, "loop": run_loop}
        whole_s: dict[str, list[float]] = {name: [] for name in contestants}
        steady_s: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, run in contestants.items():
                began = time.perf_counter()
                steady_s[name].append(run(model))
                whole_s[name].append(time.perf_counter() - began)
                print(
                    f"{name:8s} {whole_s[name][-1]:6.1f} s with its start, {steady_s[name][-1]:6.1f} s without",
                    flush=True,
                )
    print(f"\n{images} images, {len(os.sched_getaffinity(0))} cores, median of {options.rounds}")
    for what, seconds in {"with its start": whole_s, "without": steady_s}.items():
        rates = {name: images / statistics.median(values) for name, values in seconds.items()}
        told = ", ".join(f"{name} {rate:.0f} images/s" for name, rate in rates.items())
        print(f"{what:14s}: {told}; brainray / loop: {rates['brainray'] / rates['loop']:.2f}")
        results.record(options, "buckets", results.compared(rates, f"{images:,} objects, {what}"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        model, output, share, of = sys.argv[2:]
        worker(model, output, int(share), int(of))
    else:
        main()
