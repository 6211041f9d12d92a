"""Errors of Ray's threads when a session ends."""

import threading

from ray.exceptions import RayError

from brainray.cluster.session import _mute_dying_threads


def test_errors_of_ray_are_dropped_by_one_hook_for_any_number_of_sessions(monkeypatch):
    passed = []
    monkeypatch.setattr(threading, "excepthook", lambda args: passed.append(args.exc_type))
    _mute_dying_threads()
    first = threading.excepthook
    _mute_dying_threads()
    assert threading.excepthook is first
    for kind in (RayError, ValueError):
        threading.excepthook(threading.ExceptHookArgs((kind, kind(), None, None)))
    assert passed == [ValueError]
