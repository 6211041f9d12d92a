"""Several writers of one holder may make a folder at once: a rename replaces an empty folder, under a writer's feet."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from brainray import storage

WRITERS, ROUNDS = 8, 150


def test_files_that_are_written_at_once_into_a_new_folder_all_arrive(tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    writer = storage.Writer(str(staging))
    together = threading.Barrier(WRITERS)

    def write(folder: str, number: int) -> None:
        together.wait(30)
        writer.write_bytes(f"{folder}/{number}", b"x")

    with ThreadPoolExecutor(WRITERS) as pool:
        for turn in range(ROUNDS):
            folder = str(tmp_path / f"new-{turn}" / "deep")
            for future in [pool.submit(write, folder, number) for number in range(WRITERS)]:
                future.result()
            assert len(os.listdir(folder)) == WRITERS
    assert os.listdir(staging) == []
