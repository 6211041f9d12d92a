"""A heartbeat on a bucket that asks for fewer requests."""

import pytest
from support.storage.s3_servers import s3, s3_endpoints, strict_s3

from brainray import storage
from brainray.errors import Throttled
from brainray.storage import lease
from brainray.storage.s3.backend import S3Objects

__all__ = ["s3", "s3_endpoints", "strict_s3"]  # fixtures


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_a_heartbeat_of_a_throttled_store_ends_before_the_lease_does(s3, monkeypatch, method):
    waits = []
    backend = S3Objects(sleep=waits.append, settle_s=0.01)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    output = f"{s3.root}/run"
    # No heartbeat of its own: the beats here are made by hand.
    monkeypatch.setattr(lease.Lease, "_beat", lambda self: None)
    with lease.hold(output, purpose="score", say=lambda _: None) as held:
        held._renew()
        s3.proxy.add("503 SlowDown", methods=(method,))
        waits.clear()
        with pytest.raises(Throttled):
            held._renew()
        assert waits
        assert sum(waits) < lease.TTL_S / lease.BEATS
        s3.proxy.clear()
        held._renew()
