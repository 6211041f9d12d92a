"""Many cases in one test: of cases that take microseconds, pytest's own work for a test of each is most."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from typing import Any

import pytest


def each(
    names: str | tuple[str, ...], cases: Iterable[Any], *, ids: Sequence[str] | Callable[[Any], str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """In the place of `pytest.mark.parametrize`: all cases are tried, and the failure names each that fails.

    By its values, or as `ids` call the cases: a list of names, or what tells the name of a case. Each has a `tmp_path`
    and a `monkeypatch` of its own. In what else a fixture gives, a case must leave nothing.
    """
    words = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = list(cases)
    every = [dict(zip(words, case if len(words) > 1 else [case], strict=True)) for case in cases]
    called = list(map(ids, cases)) if callable(ids) else list(ids or map(_values, every))

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def walk(*given: Any, **fixtures: Any) -> None:
            assert every, "there is no case"
            failed = []
            for number, (case, name) in enumerate(zip(every, called, strict=True)):
                with pytest.MonkeyPatch.context() as patch:
                    own = _own(fixtures, number, patch)
                    failed += _failures(partial(test, *given, **own, **case), name)
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(every)} cases fail", failed)

        signature = inspect.signature(test)
        rest = [parameter for name, parameter in signature.parameters.items() if name not in words]
        walk.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return walk

    return decorate


def _own(fixtures: dict[str, Any], number: int, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fixtures of one case."""
    own = dict(fixtures)
    if "monkeypatch" in own:
        own["monkeypatch"] = patch
    if "tmp_path" in own:
        own["tmp_path"] = own["tmp_path"] / f"case{number}"
        own["tmp_path"].mkdir()
    for name in {"capfd", "capsys"} & own.keys():
        own[name].readouterr()  # what the case before has printed
    return own


def _values(case: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.200}" for name, value in case.items())


def _failures(run: Callable[[], None], name: str) -> list[BaseException]:
    try:
        run()
    except (Exception, BaseExceptionGroup, pytest.fail.Exception) as failure:  # noqa: BLE001 - the other cases are tried too
        failure.add_note(f"case: {name}")
        return [failure]
    return []
