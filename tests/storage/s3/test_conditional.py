"""Claims, revocations and fencing, with and without conditional writes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from support.storage.s3_objects import error_of, files, held
from support.storage.s3_servers import fast_s3, s3, s3_endpoints, strict_s3

from brainray.errors import (
    OutputHeld,
)
from brainray.storage.s3.backend import S3Objects
from brainray.storage.s3.conditional import ballot
from brainray.storage.s3.errors import S3Answer, judge
from brainray.storage.s3.uris import split

__all__ = ["fast_s3", "s3", "s3_endpoints", "strict_s3"]  # fixtures


def patient(settle_s: float = 0.3) -> S3Objects:
    """Its claims settle in real time."""
    return S3Objects(settle_s=settle_s)


def test_only_a_renewal_touches_the_record_of_a_claim(s3):
    """Not a write to a file that happens to have its name."""
    staging = held(s3, 1)
    files().write_bytes(f"{s3.root}/elsewhere/holder.json", b"{}", staging)
    files().renew(staging, b"1")
    files().revoke(staging)
    with pytest.raises(OutputHeld):
        files().renew(staging, b"2")
    assert s3.there() == ["elsewhere/holder.json"]


def test_the_server_with_and_the_one_without_conditional_writes_are_told_apart(s3):
    backend = patient(0.05)
    assert backend.claim(f"{s3.root}/out/1", b"{}")
    conditions = backend._probe.ask(backend._requests, f"{s3.root}/out")
    assert (conditions.if_none_match, conditions.if_match) == (s3.conditional, s3.conditional)
    assert s3.there() == ["out/1/holder.json"]  # the probe is gone


def test_a_store_that_refuses_conditional_headers_is_claimed_by_a_ballot(fast_s3):
    """As some answer 501 to them. The run would end before its first image."""
    backend = patient(0.05)
    send = backend._requests.put_once

    def without_conditions(uri, data, **how):
        if "IfNoneMatch" in how or "IfMatch" in how:
            asked = backend._requests.clients.request("s3:PutObject", uri, split(uri)[0])
            raise judge(S3Answer(status=501, code="NotImplemented"), asked)
        return send(uri, data, **how)

    backend._requests.put_once = without_conditions
    assert backend.claim(f"{fast_s3.root}/out/1", b"{}")
    assert not backend.claim(f"{fast_s3.root}/out/1", b"{}")
    assert fast_s3.there() == ["out/1/holder.json"]


def test_of_many_claims_one_succeeds(s3):
    backends = [patient(0.5) for _ in range(8)]
    together = threading.Barrier(8)

    def claim(number: int) -> bool:
        together.wait()
        return backends[number].claim(f"{s3.root}/out/.lease/00000001", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert sum(won) == 1
    if s3.conditional:
        assert s3.proxy.count("PUT", "holder") == 8
    assert s3.there() == ["out/.lease/00000001/holder.json"]
    assert files().read_bytes(f"{s3.root}/out/.lease/00000001/holder.json") == str(won.index(True)).encode()
    assert not backends[won.index(True)].claim(f"{s3.root}/out/.lease/00000001", b"again")


def test_of_many_creations_one_succeeds(s3):
    backend = files()
    uri = f"{s3.root}/out/.lease/1/mark"
    with ThreadPoolExecutor(8 if s3.conditional else 1) as pool:
        assert sum(pool.map(lambda _: backend.create(uri, None), range(8))) == 1
    assert backend.read_bytes(uri) == b""


def test_a_claim_whose_answer_was_lost_is_known_as_ours(strict_s3):
    backend = files()
    assert backend.claim(f"{strict_s3.root}/out/1", b"{}")
    strict_s3.proxy.add("drop", methods=("PUT",), key="out/2", times=1)
    assert backend.claim(f"{strict_s3.root}/out/2", b"{}")
    strict_s3.put("out/3/holder.json")
    strict_s3.proxy.add("500 InternalError", methods=("PUT",), key="out/3", times=1)
    assert not backend.claim(f"{strict_s3.root}/out/3", b"{}")


def test_a_conflict_is_tried_again(strict_s3):
    strict_s3.proxy.add("409 ConditionalRequestConflict", methods=("PUT",), key="holder", times=2)
    assert files().claim(f"{strict_s3.root}/out/1", b"{}")


def test_a_ballot_goes_to_the_first_candidate_and_later_ones_see_the_holder(fast_s3):
    folder = f"{fast_s3.root}/out/1"
    requests = S3Objects()._requests
    votes = []

    def settle(_: float) -> None:
        if not votes:
            votes.append(ballot(requests, folder, "holder.json", b"late", settle_s=9, sleep=lambda _: None))

    assert ballot(requests, folder, "holder.json", b"early", settle_s=9, sleep=settle)
    assert votes == [False]
    assert files().read_bytes(f"{folder}/holder.json") == b"early"
    assert fast_s3.there() == ["out/1/holder.json"]


def test_a_ballot_with_a_dead_candidate_is_won_by_nobody(fast_s3):
    fast_s3.put("out/1/.candidate-00000000000000000001-dead")
    assert not files().claim(f"{fast_s3.root}/out/1", b"{}")
    assert not files().exists(f"{fast_s3.root}/out/1/holder.json")


def test_a_revoked_owner_changes_nothing(s3):
    backend = files()
    staging = held(s3)
    uri = s3.put("out/part", b"old")
    backend.write_bytes(f"{s3.root}/out/new", b"new", staging)
    backend.revoke(staging)
    before = s3.there()
    for change in (
        partial(backend.write_bytes, uri, b"stale"),
        partial(backend.write_bytes, f"{s3.root}/out/other", b"stale"),
        partial(backend.copy, f"{s3.root}/out/new", uri),
        partial(backend.delete, uri),
        partial(backend.delete_tree, f"{s3.root}/out"),
        partial(backend.write_bytes, f"{staging}/holder.json", b"{}"),
    ):
        with pytest.raises(OutputHeld, match="another run has taken over this output"):
            change(staging=staging)
    with pytest.raises(OutputHeld, match="another run has taken over this output"):
        backend.renew(staging, b"{}")
    assert s3.there() == before
    assert backend.read_bytes(uri) == b"old"


def test_a_heartbeat_renews_the_holder(s3):
    backend = files()
    staging = held(s3)
    for beat in range(3):
        backend.renew(staging, str(beat).encode())
    assert backend.read_bytes(f"{staging}/holder.json") == b"2"


def test_a_heartbeat_that_meets_the_revocation_does_not_bring_the_holder_back(s3):
    """The revocation comes between its look and its write."""
    backend = files()
    staging = held(s3, 1)
    backend.renew(staging, b"1")
    send = backend._requests.put_once

    def late(uri, data, **how):
        held(s3, 2)
        files().revoke(staging)
        send(uri, data, **how)

    backend._requests.put_once = late
    with pytest.raises(OutputHeld):
        backend.renew(staging, b"2")
    assert s3.there() == ["out/.lease/00000002/holder.json"]


def test_a_change_that_was_held_up_after_the_look_looks_again(s3, monkeypatch):
    """As where the process is stopped in between: what it then finds is the revocation."""
    monkeypatch.setattr("brainray.storage.s3.backend._CHECK_HOLDS_S", 0.3)
    backend = files()
    staging = held(s3)
    send = backend._requests.put_once

    def late(uri, data, **how):
        files().revoke(staging)
        threading.Event().wait(0.5)
        send(uri, data, **how)

    backend._requests.put_once = late
    with pytest.raises(OutputHeld):
        backend.write_bytes(f"{s3.root}/out/part", b"stale", staging)
    assert s3.there() == []


def test_a_revocation_takes_the_holder_first(s3):
    staging = held(s3)
    s3.put("out/.lease/00000001/.mark")
    s3.proxy.add("403 AccessDenied", key="list-type")
    error_of(lambda: files().revoke(staging))
    assert s3.there() == ["out/.lease/00000001/.mark"]
    s3.proxy.clear()
    files().revoke(staging)
    files().revoke(staging)
    assert s3.there() == []
