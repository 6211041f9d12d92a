"""Which images of a run are drawn, and from what."""

import numpy as np
import pytest
from support.each import each
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray import storage
from brainray.errors import BadRequest
from brainray.scoring.labelling.picks import Pick, check_same_population
from brainray.scoring.labelling.population import Source, draw


def archive(images: int = 400, **values):
    """Scored images of all confidences, of groups of four."""
    return [
        scored(f"/a/{i:03d}", CLASSES[i % 2], 0.5 + (i % 97) / 200, group=f"p{i // 4}", content_hash=str(i), **values)
        for i in range(images)
    ]


def source_of(run: str, *, seed: int = 0, by_group: bool = False) -> Source:
    return Source(uri=run, run=storage.read_json(f"{run}/run.json"), seed=seed, by_group=by_group)


def drawn_uris(run: str, labels: int = 40, **how) -> list[str]:
    return draw(source_of(run, **how), labels).rows["uri"].to_pylist()


def test_the_same_seed_draws_the_same_images_however_the_run_is_cut(tmp_path):
    whole, cut = (write_run(tmp_path / str(parts), archive(), parts=parts) for parts in (1, 7))
    assert drawn_uris(whole) == drawn_uris(cut) == drawn_uris(whole)
    assert len(set(drawn_uris(whole))) == 40
    assert drawn_uris(whole, seed=1) != drawn_uris(whole)


@pytest.mark.parametrize("by_group", [False, True])
def test_more_labels_add_images_and_take_none_away(tmp_path, by_group):
    run = write_run(tmp_path, archive(), group_by="x")
    fewer, more = (drawn_uris(run, labels, by_group=by_group) for labels in (40, 120))
    assert fewer == more[: len(fewer)]
    assert len(fewer) < len(more) <= 120


def test_each_image_has_the_chance_that_it_is_said_to_have(tmp_path):
    run = write_run(tmp_path, archive(100))
    times = dict.fromkeys((f"/a/{i:03d}" for i in range(100)), 0)
    for seed in range(60):
        rows = draw(source_of(run, seed=seed), 20).rows
        for uri in rows["uri"].to_pylist():
            times[uri] += 1
    chance = dict(zip(rows["stratum"].to_pylist(), rows["inclusion_probability"].to_pylist(), strict=True))
    assert all(0.05 < each < 0.6 for each in chance.values())
    assert min(times.values()) > 0
    assert max(times.values()) < 60 * max(chance.values()) * 2


def test_only_images_without_a_label_that_the_model_has_not_learned_from_are_drawn(tmp_path):
    rows = archive(60)
    rows[0] |= {"label": rows[0]["predicted"]}
    rows[1] |= {"label": CLASSES[0]}
    rows[2] |= {"seen": True}
    run = write_run(tmp_path, [*rows, failed("/broken")], marks_seen=True)
    found = draw(source_of(run), 100)
    assert set(found.rows["uri"].to_pylist()) == {row["uri"] for row in rows[3:]}
    assert found.known.tolist() == [[1, 1], [0, 0]]
    assert found.images.sum() == 57
    assert found.predicted.sum(axis=0).tolist() == [28, 29]


def test_whole_groups_are_whole_and_count_as_units(tmp_path):
    run = write_run(tmp_path, archive(), parts=3, group_by="x")
    found = draw(source_of(run, by_group=True), 50)
    assert len(found.rows) == 52  # the group with the 50th
    assert set(found.rows.group_by("unit").aggregate([("uri", "count")])["uri_count"].to_pylist()) == {4}
    assert (found.strata.units.tolist(), found.images.tolist()) == ([100], [400])


def test_large_groups_are_drawn_as_often_as_small_ones(tmp_path):
    """Else an archive whose errors are in its volumes looks better than it is."""
    sizes = [20 if group % 3 == 0 else 2 for group in range(30)]
    rows = [
        scored(f"/{group}/{i}", "glioma", group=str(group)) for group, size in enumerate(sizes) for i in range(size)
    ]
    run = write_run(tmp_path, rows, group_by="x")
    drawn = [draw(source_of(run, seed=seed, by_group=True), 24).rows for seed in range(60)]
    groups = [int(name) for rows in drawn for name in set(rows["unit"].to_pylist())]
    assert 0.25 < np.mean([group % 3 == 0 for group in groups]) < 0.42
    assert all(24 <= len(rows) < 24 + 20 for rows in drawn)


def test_an_image_without_a_group_is_a_unit_of_its_own(tmp_path):
    run = write_run(tmp_path, archive(40) + [scored(f"/b/{i}", "glioma", group=None) for i in range(10)], group_by="x")
    assert draw(source_of(run, by_group=True), 30).strata.units.sum() == 20


def test_a_group_larger_than_the_labels_is_refused_with_what_is_needed(tmp_path):
    large = [scored(f"/b/{i}", "glioma", 0.6 + i % 7 / 20, group="large") for i in range(60)]
    run = write_run(tmp_path, archive(100) + large, group_by="x")
    says = (
        r"^--whole-groups: 1 of 26 groups have more images than --labels 50, 60 of 160 images \(38%\); give --labels "
        r"60 or more, or leave --whole-groups out$"
    )
    with pytest.raises(BadRequest, match=says):
        draw(source_of(run, by_group=True), 50)
    assert len(draw(source_of(run, by_group=True), 60).rows) >= 60


@each(
    ("rows", "says"),
    [
        ([scored("/a", "glioma", label="glioma")], "each scored image has a label"),
        ([failed("/a")], "no image was scored"),
    ],
)
def test_where_nothing_can_be_drawn_it_says_why(tmp_path, rows, says):
    with pytest.raises(BadRequest, match=says):
        draw(source_of(write_run(tmp_path, rows)), 20)


def test_a_sample_is_not_replaced_by_one_of_other_images_or_labels(tmp_path):
    def picked(name, rows):
        source = source_of(write_run(tmp_path / name, rows))
        return Pick.of(source, draw(source, 20))

    first = picked("a", archive(60))
    check_same_population(None, first)
    check_same_population(first, picked("b", archive(60)))
    for name, rows in (("c", archive(61)), ("d", [archive(60)[0] | {"label": "glioma"}, *archive(60)[1:]])):
        with pytest.raises(BadRequest, match="give another --seed"):
            check_same_population(first, picked(name, rows))
