"""Which client reads images from S3: images/s and CPU seconds per 1000 GETs, by client and requests in flight.

    python tests/bench/speed/s3_clients.py [--server rclone|moto] [--objects 2000] [--kilobytes 35]

Each client runs in a process of its own; the CPU counted is that process's, not the server's. On few cores the server
takes its share of them, so images/s understate the clients that need little; CPU seconds do not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

BUCKET = "bench"
IN_FLIGHT = (8, 16, 32, 64)
Get = Callable[[str], bytes]


def with_boto3() -> Get:
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"}, max_pool_connections=64, response_checksum_validation="when_required"
    )
    client = boto3.client("s3", config=config)
    return lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def with_pyarrow() -> Get:
    from pyarrow.fs import S3FileSystem

    files = S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region=os.environ["AWS_DEFAULT_REGION"])

    def get(key: str) -> bytes:
        with files.open_input_stream(f"{BUCKET}/{key}") as stream:
            return stream.read()

    return get


def with_obstore() -> Get:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    return lambda key: obstore.get(store, key).bytes().to_bytes()


def with_brainray() -> Get:
    from brainray.storage.s3.backend import S3Objects

    files = S3Objects()
    return lambda key: files.read_bytes(f"s3://{BUCKET}/{key}")


CLIENTS = {"boto3": with_boto3, "pyarrow": with_pyarrow, "obstore": with_obstore, "brainray": with_brainray}


def measure(name: str, objects: int, size: int) -> list[dict[str, float]]:
    started, cpu = time.perf_counter(), time.process_time()
    get = CLIENTS[name]()
    if len(get(f"{0:06d}.jpg")) != size:
        raise SystemExit(f"{name}: wrong content")
    ready_s, ready_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    rows = []
    for in_flight in IN_FLIGHT:
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(get, (f"{i:06d}.jpg" for i in range(in_flight))))  # opens the connections
            started, cpu = time.perf_counter(), time.process_time()
            for data in pool.map(get, (f"{i:06d}.jpg" for i in range(objects))):
                if len(data) != size:
                    raise SystemExit(f"{name}: wrong content")
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        rows.append(
            {
                "in_flight": in_flight,
                "per_s": objects / wall_s,
                "cpu_s_per_1000": cpu_s / objects * 1000,
                "ready_s": ready_s,
                "ready_cpu_s": ready_cpu_s,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["rclone", "moto"], default="rclone")
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=35)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = asked.kilobytes * 1000
    if asked.client:
        print(json.dumps(measure(asked.client, asked.objects, size)))
        return

    from support.storage import s3_servers

    with tempfile.TemporaryDirectory() as folder:
        server = s3_servers.rclone(folder) if asked.server == "rclone" else s3_servers.moto()
        with server as endpoint:
            client = s3_servers.plain_client(endpoint)
            client.create_bucket(Bucket=BUCKET)
            with ThreadPoolExecutor(8) as pool:
                keys = [f"{i:06d}.jpg" for i in range(asked.objects)]
                list(pool.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=os.urandom(size)), keys))
            print(f"{asked.server}, {asked.objects} objects of {asked.kilobytes} kB, {os.cpu_count()} cores; best of")
            print(f"{asked.rounds} rounds. ready: import, client and first GET, wall and CPU")
            print(f"{'client':9} {'in flight':>9} {'images/s':>9} {'CPU s/1000':>11} {'ready s':>8} {'CPU':>6}")
            results = [(name, run(name, sys.argv[1:], endpoint)) for _ in range(asked.rounds) for name in CLIENTS]
            for name in CLIENTS:
                for i, in_flight in enumerate(IN_FLIGHT):
                    rows = [rounds[i] for other, rounds in results if other == name]
                    per_s = max(row["per_s"] for row in rows)
                    cpu_s, ready_s, ready_cpu_s = (
                        min(row[field] for row in rows) for field in ("cpu_s_per_1000", "ready_s", "ready_cpu_s")
                    )
                    print(f"{name:9} {in_flight:9} {per_s:9.0f} {cpu_s:11.2f} {ready_s:8.2f} {ready_cpu_s:6.2f}")


def run(name: str, arguments: list[str], endpoint: str) -> list[dict[str, float]]:
    from support.storage.s3_servers import s3_environment

    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--client", name],
        env={**os.environ, **s3_environment(endpoint)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
