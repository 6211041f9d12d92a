"""What makes tests of the S3 backend fast."""

from collections.abc import Iterator
from functools import cache

import botocore.loaders
import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_loader() -> Iterator[None]:
    """botocore reads its data files once, not for each of the many clients of these tests: 60 ms for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", cache(botocore.loaders.create_loader))
        yield
