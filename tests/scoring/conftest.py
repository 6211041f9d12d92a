"""A run in this process, and another model."""

import pytest
from support.models.bundles import derived
from support.scoring.runs import Stopped, engine_of, request_for, score_here


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for `laid_out`, which all tests of a file share."""
    return tmp_path_factory.mktemp("home")


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


@pytest.fixture
def other(bundle, tmp_path):
    """Another model: the same weights with another temperature."""
    return derived(bundle, tmp_path / "other")
