import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.each import each

from brainray.config import Calibration, ImageSpec, MaxFailed, ModelSpec, ScoreOptions, TrainOptions, parse_workers
from brainray.errors import BadRequest


@each(
    ("make", "named"),
    [
        (lambda: ImageSpec(image_px=4), "--image-px is 4"),
        (lambda: ImageSpec(channels=2), "channels is 2"),
        (lambda: ImageSpec(resize="crop"), "resize is 'crop'"),
        (lambda: ModelSpec(classes=("one",)), "two classes"),
        (lambda: ModelSpec(classes=("a", "a")), "repeat"),
        (lambda: TrainOptions(epochs=0), "--epochs is 0"),
        (lambda: TrainOptions(val_fraction=1.0), "--val-fraction is 1.0"),
        (lambda: TrainOptions(seed=-1), "--seed is -1"),
        (lambda: TrainOptions(workers=0), "--workers is 0"),
        (lambda: TrainOptions(precision="fp8"), "--precision is 'fp8'"),
        (lambda: TrainOptions(weights="imagenet"), "there are none for compact"),
        (lambda: TrainOptions(group_regex="("), "--group-regex '(' is no regular expression"),
        (lambda: Calibration(temperature=0.0), "is no calibration"),
        (lambda: ScoreOptions(batch_size=0), "--batch-size is 0"),
        (lambda: ScoreOptions(shard_size=-1), "--shard-size is -1"),
        (lambda: ScoreOptions(stall_timeout_s=0), "--stall-timeout is 0"),
        (lambda: MaxFailed.parse("many"), "--max-failed is 'many'"),
        (lambda: MaxFailed.parse("-1"), "--max-failed is '-1'"),
        (lambda: MaxFailed.parse("120%"), "--max-failed is '120%'"),
    ],
)
def test_a_bad_value_is_refused_by_name(make, named):
    with pytest.raises(BadRequest) as refused:
        make()
    assert named in str(refused.value)


def test_specs_survive_json():
    spec = ModelSpec(name="resnet18", classes=("a", "b"), channels=3)
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ImageSpec.from_json(ImageSpec().to_json()) == ImageSpec()


def test_a_spec_of_a_newer_version_is_refused():
    with pytest.raises(BadRequest, match="does not know window"):
        ImageSpec.from_json(ImageSpec().to_json() | {"window": 3})


def test_max_failed_is_a_count_or_a_share():
    assert not MaxFailed.parse("3").exceeded(failed=3, total=5)
    assert MaxFailed.parse("3").exceeded(failed=4, total=1_000_000)
    assert not MaxFailed.parse("1 %").exceeded(failed=10, total=1000)
    assert MaxFailed.parse("1%").exceeded(failed=11, total=1000)
    assert MaxFailed.parse("0").exceeded(failed=1, total=10)
    assert str(MaxFailed.parse("0.5%")) == "0.5%"


@given(count=st.integers(0, 10**9), failed=st.integers(0, 10**9))
def test_no_failure_is_ever_too_many(count, failed):
    assert not MaxFailed(count=count).exceeded(failed=0, total=failed)


def test_workers_are_a_number_or_a_range():
    assert parse_workers("4") == (4, None)
    assert parse_workers("2-8") == (2, 8)
    for text in ("", "a", "2-", "-3", "2-x"):
        with pytest.raises(BadRequest, match="give a number such as 4, or a range such as 2-8"):
            parse_workers(text)
    with pytest.raises(BadRequest, match="--workers is 4-2; the second number must be the greater one"):
        TrainOptions(workers=4, most_workers=2)
