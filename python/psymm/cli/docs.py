"""`psymm docs`: the documentation in this package, and example configurations."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files

import click

from psymm.cli.options import Command, json_option
from psymm.cli.output import Screen

_PAGES = {
    "readme": ("README.md", "What pSymm is, and the way to a first trade."),
    "guarantees": ("guarantees.md", "What is promised, and the test that proves it."),
    "what-you-lose": ("what-you-lose.md", "What each loss costs, and the way out."),
    "architecture": ("architecture.md", "How a frame, an order and a settlement pass the code."),
    "oracle": ("oracle.md", "How to run a price oracle, and what its rounds prove."),
    "maker.toml": ("maker.toml", "An example for `psymm solver --config`."),
    "oracle.toml": ("oracle.toml", "An example for `psymm oracle --config`."),
}


@click.command(cls=Command)
@json_option
@click.argument("page", type=click.Choice(list(_PAGES)), required=False)
def docs(screen: Screen, page: str | None) -> None:
    """Prints a PAGE, or lists the pages."""
    if page is None:
        screen.table(("page", "about"), [(name, about) for name, (_, about) in _PAGES.items()])
        screen.result("", pages=list(_PAGES))
        return
    text = files("psymm").joinpath("docs", _PAGES[page][0]).read_text(encoding="utf-8")
    if page == "maker.toml":
        # Terms that have ended, or end in the far future, are refused, so the date is computed.
        text = text.replace("{end_date}", f"{datetime.now(UTC).year + 2}-01-01")
    screen.result(text.rstrip("\n"), page=page, text=text)


__all__ = ["docs"]
