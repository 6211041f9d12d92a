"""What botocore works out for each client anew is kept for all clients of a test process: a third of their making.

Each test has a client of its own, and the clients of a test differ by environment only. None of this depends on that.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import botocore.endpoint_provider
import botocore.hooks
import botocore.session

_names: dict[str, str] = {}  # of events, and those that they stand for
_rules: dict[int, tuple[Any, Any]] = {}  # by the id of the description that they were made of, which is kept, too
_init_aliaser = botocore.hooks.EventAliaser.__init__
_takes_keywords = cache(botocore.hooks.accepts_kwargs)
_rule_set = botocore.endpoint_provider.RuleSet


def _init(aliaser: Any, *arguments: Any, **named: Any) -> None:
    _init_aliaser(aliaser, *arguments, **named)
    aliaser._alias_name_cache = _names


def _rules_of(*, rules: list[Any], **rest: Any) -> Any:
    if id(rules) not in _rules:
        _rules[id(rules)] = rules, _rule_set(rules=rules, **rest)
    return _rules[id(rules)][1]


def _accepts_keywords(handler: Callable[..., object]) -> object:
    return _takes_keywords(getattr(handler, "__func__", handler))


def work_out_once() -> None:
    botocore.session.create_loader = cache(botocore.session.create_loader)  # its description of S3: 0.1 s to parse
    botocore.hooks.EventAliaser.__init__ = _init
    botocore.hooks.accepts_kwargs = _accepts_keywords
    botocore.endpoint_provider.RuleSet = _rules_of
