"""Measures the rule by which slices become what is said of a series, and others beside it.

    .venv/bin/python tests/bench/series_rule.py --data Training --subjects subjects.csv [--healthy RUN]

Predictions are those of the reference of the model in the package (`shipped-fast`), each made by a fold that has not
learned from the picture or its patient; a picture of Training is found in it by size, brightness and contrast.
Slices of one plane and patient have neighbouring numbers in the figshare set, so stretches of m neighbouring numbers
stand for a tumour that shows in m slices. Series without a tumour are 20 slices drawn from the pictures without one:
they are of different heads, and mistakes in one head look alike, so their share of false findings is a lower bound.
RUN is a run whose series are all known to be without one.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from brainray.commands.score import named
from brainray.errors import ImageError
from brainray.evaluation.series import NO_FINDING, NOTHING, SeriesRule, judge
from brainray.imaging.decode import decode
from brainray.imaging.exposure import exposure
from brainray.models.bundle import load_bundle
from brainray.models.reference import read_reference
from brainray.scoring.parts import present_shards
from brainray.scoring.prediction_schema import LATER, prob_column
from brainray.scoring.series.rows import SeriesSource, order_of, sorted_series

SPANS = (2, 3, 4, 5)
SLICES, DRAWN = 20, 5_000
FARTHEST = 2  # numbers of neighbouring slices differ by as much: copies were taken out
RULES = [
    SeriesRule(neighbours=k, suspicion=suspicion, least=1) for k in (1, 2, 3, 4) for suspicion in (0.0, 0.7, 0.8, 0.9)
]


def pictures(data: Path, subjects: Path, bundle) -> Iterator[tuple[dict[str, str], dict]]:
    """Rows of subjects.csv with their rows of the reference."""
    known = defaultdict(list)
    for row in read_reference(bundle).to_pylist():
        known[(row["label"], row["width"], row["height"], *looks(row["brightness"], row["contrast"]))].append(row)
    with subjects.open() as file:
        for listed in csv.DictReader(file):
            try:
                found = decode((data / listed["uri"]).read_bytes(), bundle.image)
            except ImageError:
                continue
            label = listed["uri"].partition("/")[0]
            fits = known.get((label, found.width, found.height, *looks(*exposure(found.pixels))), [])
            if len(fits) == 1 and (fits[0]["group"] or "") == listed["subject"]:
                yield listed, fits[0]


def looks(brightness: float, contrast: float) -> tuple[float, float]:
    return round(float(brightness), 6), round(float(contrast), 6)


def stretches(found: list[tuple[dict, dict]], classes) -> list[tuple[str, str, np.ndarray]]:
    """Label, block of patients and probabilities [n, K] of slices with neighbouring numbers."""
    blocks = defaultdict(dict)
    for listed, row in found:
        if listed["figshare_no"] and listed["subject"]:
            blocks[(row["label"], listed["subject"])][int(listed["figshare_no"])] = probs_of(row, classes)
    pieces = []
    for (label, subject), slices in blocks.items():
        numbers = np.array(sorted(slices))
        for piece in np.split(numbers, np.flatnonzero(np.diff(numbers) > FARTHEST) + 1):
            pieces += [(label, subject, np.array([slices[n] for n in piece.tolist()]))]
    return pieces


def probs_of(row, classes) -> list[float]:
    return [row[prob_column(name)] for name in classes]


def said(series: list[np.ndarray], rule: SeriesRule, negative: int) -> np.ndarray:
    places = np.repeat(np.arange(len(series)), [len(each) for each in series])
    probs = np.concatenate(series)
    sure = np.ones(len(probs), bool)
    return judge(places, probs, sure, series=len(series), negative=negative, rule=rule).predicted_S


def windows(pieces, span: int) -> list[tuple[str, np.ndarray]]:
    return [(label, probs[at : at + span]) for label, _, probs in pieces for at in range(len(probs) - span + 1)]


def series_of(run: str, classes) -> list[np.ndarray]:
    """The probabilities of the scored slices of each series of a run, in order."""
    source = SeriesSource(run_uri=run, shards=sorted(present_shards(run)), classes=classes, later=LATER)
    series = []
    with sorted_series(source) as tables:
        for table in tables:
            codes = table["series"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
            order, _ = order_of(table, codes)
            probs = np.stack([table[prob_column(name)].to_numpy() for name in classes], axis=1)[order]
            kept = (table["status"].to_numpy() == 0)[order]
            series += [probs[kept & (codes[order] == k)] for k in range(codes.max() + 1)]
    return [each for each in series if len(each)]


def whole_blocks(pieces) -> tuple[list[str], list[np.ndarray]]:
    """The label and all slices of each block of patients."""
    blocks = defaultdict(list)
    for label, subject, probs in pieces:
        blocks[(label, subject)].append(probs)
    return [label for label, _ in blocks], [np.concatenate(each) for each in blocks.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--healthy", help="a run of series without a tumour")
    arguments = parser.parse_args()
    bundle = load_bundle(named("shipped-fast"))
    classes, negative = bundle.classes, bundle.classes.index(NO_FINDING)
    found = list(pictures(arguments.data, arguments.subjects, bundle))
    pieces = stretches(found, classes)
    without = {row["unit"]: probs_of(row, classes) for _, row in found if row["label"] == NO_FINDING}
    pool, random = np.array(list(without.values())), np.random.default_rng(0)
    drawn = [pool[random.choice(len(pool), SLICES, replace=False)] for _ in range(DRAWN)]
    healthy = series_of(arguments.healthy, classes) if arguments.healthy else []
    tumours = sum(len(probs) for *_, probs in pieces)
    print(f"{len(pieces)} stretches with {tumours} slices of {len({s for _, s, _ in pieces})} blocks of patients;")
    print(f"{len(pool)} pictures without a tumour, {(pool.argmax(axis=1) != negative).mean():.1%} of them mistaken\n")
    shown = " | ".join(f"found in {span} slices" for span in SPANS)
    print(f"| neighbours | suspicion | {shown} | class right of 5 | blocks right | false of {SLICES} | healthy |")
    print("| --- " * (len(SPANS) + 6) + "|")
    owners, blocks = whole_blocks(pieces)
    truth = np.array([classes.index(label) for label in owners])
    for rule in RULES:
        cells = []
        for span in SPANS:
            cut = windows(pieces, span)
            answers = said([probs for _, probs in cut], rule, negative)
            findings = (answers != negative) & (answers != NOTHING)
            cells.append(f"{findings.mean():.1%}" if span >= rule.neighbours else "none")
        labels = np.array([classes.index(label) for label, _ in cut])
        right = f"{(answers == labels)[findings].mean():.1%}"
        false = f"{(said(drawn, replace(rule, least=SLICES), negative) != negative).mean():.2%}"
        own = f"{(said(healthy, rule, negative) != negative).sum()} of {len(healthy)}" if healthy else "–"
        whole = f"{(said(blocks, rule, negative) == truth).sum()} of {len(truth)}"
        print(f"| {rule.neighbours} | {rule.suspicion:g} | {' | '.join(cells)} | {right} | {whole} | {false} | {own} |")


if __name__ == "__main__":
    main()
