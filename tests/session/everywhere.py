"""Functions replaced by a test: those of the protocol wherever a module of it has them by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

Off = Callable[[pytest.MonkeyPatch], None]
"""Turns something off for one test."""


def replace_everywhere(
    function: Callable[..., Any], stand_in: Callable[..., Any], put: Callable[[Any, str, Any], None]
) -> None:
    """Have `put` (setattr, or a test's own that is undone) replace a function in every module of
    the session protocol that has it."""
    assert isinstance(function, FunctionType)
    for name, module in list(sys.modules.items()):
        if name.startswith("psymm.session.protocol"):
            for held, value in list(vars(module).items()):
                if value is function:
                    put(module, held, stand_in)


def around(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Off:
    """wrap(what was there) in its place; a function of the protocol, wherever a module has it."""

    def off(patch: pytest.MonkeyPatch) -> None:
        was = getattr(owner, name)
        in_protocol = getattr(owner, "__name__", "").startswith("psymm.session.protocol")
        if in_protocol and isinstance(was, FunctionType):
            replace_everywhere(was, wrap(was), patch.setattr)
        else:
            patch.setattr(owner, name, wrap(was))

    return off


def put(owner: Any, name: str, stand_in: Any) -> Off:
    """Something else in its place."""
    return around(owner, name, lambda was: stand_in)


def nothing(owner: Any, name: str, returns: Any = None) -> Off:
    """It does nothing."""
    return put(owner, name, lambda *given, **named: returns)


def unless(owner: Any, name: str, test: Callable[..., bool], returns: Any = None) -> Off:
    """It does nothing for such arguments."""
    return around(
        owner,
        name,
        lambda was: lambda *given, **named: returns if test(*given) else was(*given, **named),
    )


def before(owner: Any, name: str, act: Callable[..., Any]) -> Off:
    """Something is done first, with the same arguments."""
    return around(
        owner,
        name,
        lambda was: lambda *given, **named: (act(*given), was(*given, **named))[1],
    )


def after(owner: Any, name: str, act: Callable[..., Any]) -> Off:
    """Something is done last, with the result and the same arguments."""

    def wrap(was: Any) -> Any:
        def wrapped(*given: Any, **named: Any) -> Any:
            result = was(*given, **named)
            act(result, *given)
            return result

        return wrapped

    return around(owner, name, wrap)


def instead(owner: Any, name: str, change: Callable[..., tuple[Any, ...]]) -> Off:
    """It gets other arguments."""
    return around(owner, name, lambda was: lambda *given, **named: was(*change(*given, **named)))


def all_of(*offs: Off) -> Off:
    def off(patch: pytest.MonkeyPatch) -> None:
        for each in offs:
            each(patch)

    return off


def meanwhile(
    owner: Any, name: str, whose: Callable[..., Any], attribute: str, value: Any = None
) -> Off:
    """An attribute of `whose(*given)` has this value during the call, its own one where it is None,
    and is afterwards what it was before."""

    def wrap(was: Any) -> Any:
        def wrapped(*given: Any, **named: Any) -> Any:
            one = whose(*given)
            kept = getattr(one, attribute)
            setattr(one, attribute, kept if value is None else value)
            try:
                return was(*given, **named)
            finally:
                setattr(one, attribute, kept)

        return wrapped

    return around(owner, name, wrap)
