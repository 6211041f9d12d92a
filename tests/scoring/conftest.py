"""A run in this process, and another model."""

import pytest
from support.imaging.images import draw_archive
from support.models.bundles import derived
from support.scoring.laid_out import laid_out
from support.scoring.runs import Stopped, engine_of, request_for, score_here

from brainray.models.maps import ClassMaps


@pytest.fixture
def run(bundle, tmp_path, no_plot):
    """Scores into one output. `only` stops it dead after so many shards, as a killed run is."""

    def start(root, *, only=None, model=bundle, on_shard=None, **options):
        request = request_for(root, start.uri, model, **options)
        engine = engine_of(model, only=only, on_shard=on_shard)
        if only is None:
            return score_here(request, engine)
        with pytest.raises(Stopped):
            score_here(request, engine)
        return None

    start.uri = str(tmp_path / "run")
    return start


_class_maps: dict[str, ClassMaps] = {}


@pytest.fixture(autouse=True, scope="module")
def maps_once():
    """What maps the images of a bundle is made once: it takes 0.1 s to fuse its network and to find its grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.models.maps.ClassMaps", _maps_once)
        yield


def _maps_once(bundle):
    if bundle.fingerprint not in _class_maps:
        _class_maps[bundle.fingerprint] = ClassMaps(bundle)
    return _class_maps[bundle.fingerprint]


@pytest.fixture(scope="session")
def begun_homes(tmp_path_factory):
    return tmp_path_factory.mktemp("begun")


@pytest.fixture
def begun(begun_homes, bundle, run):
    """Gives the folder of an archive of so many images a class that `run` has scored; scored once for all tests."""

    def lay_out(images):
        def begin(now):
            draw_archive(now / "in", images)
            score_here(request_for(now / "in", now / "run", bundle), engine_of(bundle))

        home = begun_homes / str(images)
        home.mkdir(exist_ok=True)
        now = laid_out(home, begin)
        run.uri = str(now / "run")
        return now / "in"

    return lay_out


@pytest.fixture
def other(bundle, tmp_path):
    """Another model: the same weights with another temperature."""
    return derived(bundle, tmp_path / "other")
