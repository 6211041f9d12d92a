"""Calls in threads come back in order, and only a few are begun before their results are taken."""

import pytest

from brainray.machine.ahead import map_ahead


def test_results_come_in_order_and_few_items_are_taken_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number * 2, items(), threads=3)
    for place, result in enumerate(results):
        assert result == 2 * place
        assert len(taken) <= place + 8, "a run of many shards would hold the results of all of them"
    assert taken == list(range(100))


def test_an_error_of_a_call_is_raised_in_its_place():
    results = map_ahead(lambda number: 1 // number, [2, 1, 0, 3], threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_single_call_starts_no_thread(monkeypatch):
    monkeypatch.setattr("brainray.machine.ahead.ThreadPoolExecutor", None)
    assert list(map_ahead(lambda number: number + 1, [1], threads=4)) == [2]
    assert list(map_ahead(lambda number: number + 1, [], threads=4)) == []
