import io
import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.each import each

from brainray import storage
from brainray.errors import BadRequest
from brainray.imaging import phantom

SEED = 11
IMAGES = 120


@cache
def archive():
    """(pixels, class name, suffix, bytes) of every image of one archive."""
    drawn = [phantom.draw(index, SEED) for index in range(IMAGES)]
    return [
        (pixels, name, suffix, data)
        for index, (pixels, name) in enumerate(drawn)
        for data, suffix in [phantom.encode(pixels, index, SEED)]
    ]


def class_numbers():
    return np.array([phantom.CLASSES.index(name) for _, name, _, _ in archive()])


def grey_levels(pixels):
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def cross_validated(model, features, classes):
    from sklearn.model_selection import cross_val_score

    return cross_val_score(model(), features, classes, cv=5).mean()


def linear():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(40, min_samples_leaf=4, random_state=0)


def linear_of_pixels():
    """Turned to all its components, the same model is fitted to 224 numbers of an image, not to 1,024."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), PCA(), LogisticRegression(C=1e-3, max_iter=300))


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_image_depends_on_its_number_and_seed_alone():
    order = list(range(8))
    random.Random(0).shuffle(order)
    for index in order:
        pixels, name = phantom.draw(index, SEED)
        assert np.array_equal(pixels, archive()[index][0])
        assert name == archive()[index][1] == phantom.class_of(index, SEED)


def test_numbers_and_seeds_give_different_images():
    seen = {phantom.draw(index, seed)[0].tobytes() for index in range(4) for seed in range(3)}
    assert len(seen) == 12


@given(st.integers(1, 200), st.integers(0, 2**40))
@settings(max_examples=25)
def test_classes_are_balanced_within_one_at_any_size(images, seed):
    counts = Counter(phantom.class_of(index, seed) for index in range(images))
    assert max(counts.values()) - min(counts[name] for name in phantom.CLASSES) <= 1


def test_number_says_nothing_about_class():
    places = Counter((index % 4, phantom.class_of(index, SEED)) for index in range(2000))
    assert len(places) == 16
    assert all(80 <= count <= 170 for count in places.values())


def test_every_image_decodes_and_is_not_blank():
    for pixels, _, suffix, data in archive():
        with Image.open(io.BytesIO(data)) as image:
            decoded = np.asarray(image)
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[suffix]
        assert decoded.shape == pixels.shape
        assert decoded.dtype == pixels.dtype == np.uint8
        assert decoded.std() > 10
        assert np.abs(decoded.astype(int) - pixels).mean() < (4 if suffix == ".jpg" else 1e-9)


def test_background_is_dark_and_the_head_is_not():
    for pixels, _, _, _ in archive()[:60]:
        grey = grey_levels(pixels)
        height, width = grey.shape
        middle = grey[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
        assert np.mean([grey[0, 0], grey[0, -1]]) < 40
        assert middle.mean() > 1.5 * grey[:2].mean()


def test_formats_modes_and_shapes_all_occur_in_every_class():
    for wanted in phantom.CLASSES:
        mine = [(pixels, suffix) for pixels, name, suffix, _ in archive() if name == wanted]
        assert {(pixels.ndim, suffix) for pixels, suffix in mine} == {
            (2, ".jpg"),
            (2, ".png"),
            (3, ".jpg"),
            (3, ".png"),
        }
        sides = {pixels.shape[:2] for pixels, _ in mine}
        assert {np.sign(height - width) for height, width in sides} == {-1, 0, 1}
        assert all(180 <= side <= 512 for pair in sides for side in pair)


def test_sizes_spread_over_the_range():
    longest = [max(pixels.shape[:2]) for pixels, _, _, _ in archive()]
    assert min(longest) < 210
    assert max(longest) > 480


@pytest.mark.parametrize("model", [linear, forest])
def test_size_format_mode_and_brightness_do_not_tell_the_class(model):
    features = [
        (*pixels.shape[:2], pixels.shape[0] / pixels.shape[1], pixels.ndim, suffix == ".png", pixels.mean())
        for pixels, _, suffix, _ in archive()
    ]
    assert cross_validated(model, np.array(features, dtype=float), class_numbers()) < 0.34  # chance is 0.25


def test_mean_brightness_is_the_same_in_every_class():
    means = np.array([pixels.mean() for pixels, _, _, _ in archive()])
    groups = [means[class_numbers() == number] for number in range(len(phantom.CLASSES))]
    error = means.std() / np.sqrt(len(means) / len(groups))
    assert max(abs(group.mean() - means.mean()) for group in groups) < 3 * error


def test_a_linear_model_on_small_pixels_stays_far_from_solving_it():
    small = [
        np.asarray(Image.fromarray(grey_levels(pixels)).resize((32, 32), Image.Resampling.BOX)).ravel()
        for pixels, _, _, _ in archive()
    ]
    assert cross_validated(linear_of_pixels, np.array(small, dtype=float), class_numbers()) < 0.75


def lesion_map(name, count=16):
    """Where, on average, a lesion changes an axial slice [h, w] and by how much; the head is the same without it."""
    changes = []
    for index in range(count):
        slice_ = phantom._anatomy(np.random.default_rng([SEED, index]), 256, 256)
        if slice_.view is not phantom._AXIAL:
            continue
        healthy = slice_.value.copy()
        phantom._LESIONS[name](slice_)
        changes.append((np.abs(slice_.value - healthy), np.hypot(slice_.x, slice_.y)))
    change = np.mean([c for c, _ in changes], axis=0)
    mean_radius = np.average([r for _, r in changes], weights=[c + 1e-9 for c, _ in changes])
    return change, float(mean_radius)


def test_lesions_differ_in_place_and_size():
    maps = {name: lesion_map(name) for name in ("glioma", "meningioma", "pituitary")}
    total = {name: change.sum() for name, (change, _) in maps.items()}
    radius = {name: radius for name, (_, radius) in maps.items()}
    assert radius["pituitary"] < 0.25 < radius["glioma"] < 0.55 < radius["meningioma"]
    assert total["pituitary"] < 0.6 * min(total["glioma"], total["meningioma"])


def test_every_tissue_of_a_view_has_a_tone_in_every_sequence():
    for view in (phantom._AXIAL, phantom._CORONAL, phantom._SAGITTAL):
        tissues = {tissue for tissue, _ in view.frame + view.deep} - set(phantom._FOLDS) - {"skull", "air"}
        for sequence in phantom._SEQUENCES:
            assert tissues | set(phantom._LESIONS) | {"oedema"} <= set(sequence)


def test_healthy_heads_have_no_lesion():
    assert set(phantom._LESIONS) == set(phantom.CLASSES) - {"notumor"}


def test_archive_is_class_folders_of_the_images_drawn(tmp_path):
    counts = []
    written = phantom.write_archive(str(tmp_path / "new" / "archive"), images=6, seed=SEED, progress=counts.append)
    assert written == 6
    assert counts == [1, 2, 3, 4, 5, 6]
    expected = {f"{name}/img_{i:05d}{suffix}": data for i, (_, name, suffix, data) in enumerate(archive()[:6])}
    assert files_below(tmp_path / "new" / "archive") == expected


def test_a_larger_archive_holds_the_smaller_one(tmp_path):
    phantom.write_archive(str(tmp_path / "a"), images=3, seed=4)
    phantom.write_archive((tmp_path / "b").as_uri(), images=5, seed=4)
    small, large = files_below(tmp_path / "a"), files_below(tmp_path / "b")
    assert small.items() < large.items()


def test_an_empty_folder_is_filled(tmp_path):
    assert phantom.write_archive(str(tmp_path), images=1, seed=0) == 1


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BadRequest, match=f"{tmp_path} holds files already"):
        phantom.write_archive(str(tmp_path), images=4, seed=0)
    assert storage.list_names(str(tmp_path)) == ["mine.txt"]


def test_a_file_is_refused(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("keep")
    with pytest.raises(BadRequest, match="taken is a file"):
        phantom.write_archive(str(taken), images=4, seed=0)
    assert taken.read_text() == "keep"


@each(("images", "seed", "named"), [(0, 0, "--images is 0"), (-3, 0, "--images"), (1, -1, "--seed is -1")])
def test_impossible_numbers_are_refused(tmp_path, images, seed, named):
    with pytest.raises(BadRequest, match=named):
        phantom.write_archive(str(tmp_path / "new"), images=images, seed=seed)
    assert not (tmp_path / "new").exists()
