"""How well the groups that `brainray audit` proposes find the slices of one patient.

    .venv/bin/python tests/bench/proposed_groups.py --images FOLDER --audit AUDIT --blocks blocks.csv

AUDIT is the output of `brainray audit --data FOLDER`. The CSV has uri (below the folder), subject (a block of one or
more whole patients, empty where nothing is known) and figshare_no (slices of one patient and plane are numbered one
after the other). A picture counts once, whatever copies there are of it. As a block holds several patients, the share
of pairs of one block is an upper bound of those of one patient; the share by chance stands beside it.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from brainray.duplicates.descriptors import Descriptors, describe_picture
from brainray.duplicates.neighbours import propose_groups
from brainray.imaging.decode import luminance

_FOLDS, _DRAWS = 5, 10
_APART = 15  # numbers between two slices that hardly are of one patient and plane
_CORRELATED_PX = 32


class Pictures:
    """One image of each picture, with what is known of it. Arrays [N]; `block` is "" and `number` -1 for unknown."""

    def __init__(self, folder, audit, blocks):
        known = {row["uri"]: row for row in csv.DictReader(blocks.read_text().splitlines())}
        root = str(folder.resolve())
        rows = [row for row in pq.read_table(audit / "groups.parquet").to_pylist() if row["group"]]
        of_picture = {}
        for row in rows:
            about = known.get(row["uri"].removeprefix(f"{root}/"), {})
            if about.get("subject"):
                of_picture.setdefault(row["group"], about)
        leaders = sorted((row for row in rows if row["transform"] is None), key=lambda row: row["group"])
        about = [of_picture.get(row["group"], {}) for row in leaders]
        self.label = np.array([row["label"] or "" for row in leaders])
        self.block = np.array([each.get("subject", "") for each in about])
        self.number = np.array([int(each.get("figshare_no") or -1) for each in about])
        self.proposed = np.array([row["proposed_group"] or f"alone {row['group']}" for row in leaders])
        self.alone = np.array([row["group"] for row in leaders])
        self.descriptors = Descriptors.stack(
            [describe_picture(luminance(Path(r["uri"]).read_bytes())) for r in leaders]
        )
        self.known = self.block != ""
        self.of_one_block = (self.block[:, None] == self.block) & self.known & self.known[:, None]
        np.fill_diagonal(self.of_one_block, False)


def correlations(thumbnails):
    """[N, N] the largest correlation of reduced thumbnails, one of them as it is, mirrored or upside down."""
    side = thumbnails.shape[1] // _CORRELATED_PX
    small = thumbnails.reshape(-1, _CORRELATED_PX, side, _CORRELATED_PX, side).mean(axis=(2, 4))

    def unit(pictures):
        values = pictures.reshape(len(pictures), -1) - pictures.mean(axis=(1, 2))[:, None]
        return (values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6)).astype(np.float32)

    turned = [small, small[:, ::-1], small[:, :, ::-1], small[:, ::-1, ::-1]]
    return np.max([unit(small) @ unit(each).T for each in turned], axis=0)


def left_behind(pictures, group, alike):
    """Share of held-out pictures whose most alike picture of the same block is trained on; mean over random folds."""
    closest = np.where(pictures.of_one_block, alike, -2).argmax(axis=1)
    counted = pictures.of_one_block.any(axis=1)
    _, unit = np.unique(group, return_inverse=True)
    shares = []
    for draw in range(_DRAWS):
        fold = np.random.default_rng(draw).integers(0, _FOLDS, unit.max() + 1)[unit]
        shares.append((fold[closest] != fold)[counted].mean())
    return float(np.mean(shares))


def with_next_slice(pictures, group):
    """Share of the pictures with a slice numbered next to them, in their block, that are in a group with one."""
    near = pictures.of_one_block & (pictures.label[:, None] == pictures.label)
    near &= np.abs(pictures.number[:, None] - pictures.number) == 1
    together = near & (group[:, None] == group)
    return float(together.any(axis=1)[near.any(axis=1)].mean())


def pairs_of_one_block(pictures, group, among):
    """(pairs in a group, share of them of one block, that share of pairs drawn at random), of the pictures `among`."""
    upper = np.triu(np.outer(among & pictures.known, among & pictures.known), 1)
    together = upper & (group[:, None] == group)
    return int(together.sum()), pictures.of_one_block[together].mean(), pictures.of_one_block[upper].mean()


def of_different_heads(pictures):
    """(pictures, share of them that get into a proposed group), of known pictures that are numbered far apart."""
    kept, last = [], {}
    for row in np.lexsort((pictures.number, pictures.label)):
        if pictures.known[row] and pictures.number[row] - last.get(pictures.label[row], -_APART) >= _APART:
            kept.append(row)
            last[pictures.label[row]] = pictures.number[row]
    group = propose_groups(pictures.descriptors, np.array(kept), np.full(len(kept), -1))
    sizes = np.bincount(group)
    return len(kept), sizes[sizes > 1].sum() / len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--audit", type=Path, required=True)
    parser.add_argument("--blocks", type=Path, required=True)
    given = parser.parse_args()
    pictures = Pictures(given.images, given.audit, given.blocks)
    sizes = np.unique(pictures.proposed, return_counts=True)[1]
    several, median = sizes[sizes > 1], np.median(sizes[sizes > 1])
    print(f"{len(pictures.label):,} pictures, {pictures.known.sum():,} of a known block")
    print(f"{len(several):,} groups of {several.sum():,} pictures; median {median:.0f}, largest {several.max()}")
    for label in ("", *np.unique(pictures.label[pictures.known])):
        among = pictures.label == label if label else np.ones(len(pictures.label), bool)
        pairs, share, chance = pairs_of_one_block(pictures, pictures.proposed, among)
        print(f"{label or 'all'}: {pairs:,} pairs in a group, of one block {share:.3f}, by chance {chance:.3f}")
    alike = correlations(pictures.descriptors.thumbnail)
    # Pictures of no known block are units of their own.
    blocks = np.where(pictures.known, pictures.block, pictures.alone)
    for name, group in (("copies alone", pictures.alone), ("proposed", pictures.proposed), ("blocks", blocks)):
        next_to, left = with_next_slice(pictures, group), left_behind(pictures, group, alike)
        print(f"{name}: next slice in the group {next_to:.3f}, closest picture of the block in training {left:.3f}")
    count, share = of_different_heads(pictures)
    print(f"{count} pictures numbered {_APART} or more apart: in a proposed group {share:.3f}")


if __name__ == "__main__":
    main()
