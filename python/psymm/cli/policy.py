"""A trader's policy as a file (TOML): `policy.toml` in the home, or the one that --policy names.

    open_fee = "0.001"               # highest fees, as shares of the notional
    close_fee = "0.001"
    round_trip_fee = "0.0015"
    reserve = "0.05"                 # highest reserve, as a share of the collateral
    acknowledgement_s = 10           # longest T
    oracle_signers = ["0x…"]         # who may sign prices
    [feeds]
    SPX = "sp500:Close"              # an instrument's price feed, if it differs from its symbol

Keys are the fields of `psymm.api.policy.TraderPolicy`, and its docstring says what each one limits.
Keys that are left out have their defaults. Token, decimals and symbols come from the command line.
Shares are strings with a plain decimal. Unknown keys are refused by name.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psymm.cli.configuration import read_toml
from psymm.cli.exit_status import CommandError, Exit

if TYPE_CHECKING:
    from psymm.api.policy import SolverPolicy, TraderPolicy

_GIVEN: Final = ("token", "decimals", "symbols")
_SOLVERS: Final = ("least", "most", "ratio", "traders", "reserve", "relayer_cap")


def load_policy(path: Path | None, max_fees: str | None) -> TraderPolicy:
    """The policy in a file; without one, the defaults.

    max_fees: the highest fees of a round trip; replaces the file's.
    Raises CommandError `bad-policy` (exit 2) naming the key.
    """
    from psymm.api.policy import TraderPolicy

    raw = {} if path is None else read_toml(path, _bad)
    known = {one.name for one in dataclasses.fields(TraderPolicy)} - set(_GIVEN)
    _known(raw, known)
    if max_fees is not None:
        raw["round_trip_fee"] = max_fees
        # Each fee is at most their sum.
        raw["open_fee"] = raw["close_fee"] = max_fees
    for name, value in raw.items():
        kinds = {"feeds": dict, "oracle_signers": list}
        if name in kinds and not _strings(value, kinds[name]):
            raise _bad(f"{name} holds strings only")
        if name not in kinds and not isinstance(value, str | int):
            raise _bad(f"{name} is written as a string with a plain decimal, or a whole number")
    try:
        return TraderPolicy(**raw)
    except (TypeError, ValueError) as bad:
        raise _bad(str(bad)) from None


def solver_policy(raw: object) -> SolverPolicy:
    """The [policy] table of a market maker's configuration. Raises CommandError `bad-policy`."""
    from psymm.api.amounts import scaled
    from psymm.api.policy import SolverPolicy

    if not isinstance(raw, dict):
        raise _bad("it is written as [policy]")
    _known(raw, set(_SOLVERS))
    traders = raw.get("traders")
    if traders is not None and not _strings(traders, list):
        raise _bad("traders is a list of addresses")
    for name, value in raw.items():
        if name == "traders":
            continue
        if not isinstance(value, str):
            raise _bad(f'{name} is written as a string, like {name} = "1"')
        try:
            good = scaled(value) >= 0
        except ValueError:
            good = False
        if not good:
            raise _bad(f"{name}: {value!r} is not a decimal of zero or more")
    return SolverPolicy(**raw)


def _strings(value: Any, kind: type) -> bool:
    held = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(one, str) for one in held)


def _known(raw: dict[str, Any], names: set[str]) -> None:
    for name in raw:
        if name not in names:
            raise _bad(f"it has no key {name!r}; it may have {', '.join(sorted(names))}")


def _bad(what: str) -> CommandError:
    return CommandError("bad-policy", f"Policy: {what}.", Exit.USAGE)
