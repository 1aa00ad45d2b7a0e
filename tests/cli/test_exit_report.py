"""Every way that a command can end has one exit code, and only bugs show where they arose."""

import click
import pytest

from psymm import errors as base
from psymm.chain import errors as chain
from psymm.cli.exit_report import exit_report_of
from psymm.cli.exit_status import MEANINGS, CommandError, Exit
from psymm.custody import errors as custody
from psymm.relayer import errors as relayer


@pytest.mark.parametrize(
    ("error", "exit_", "code"),
    [
        (CommandError("not-confirmed", "No."), Exit.REFUSED, "not-confirmed"),
        (click.UsageError("what?"), Exit.USAGE, "usage"),
        (click.Abort(), Exit.INTERRUPTED, "interrupted"),
        (chain.ChainDown("http://x", "refused"), Exit.CHAIN, "chain-down"),
        (chain.WalletWithoutGas("0x", 0, 1), Exit.FUNDS, "wallet-without-gas"),
        (chain.ToolsMissing("anvil"), Exit.TOOLS, "tools-missing"),
        (base.WrongPassword(), Exit.KEYSTORE, "wrong-password"),
        (base.JournalLocked(), Exit.JOURNAL, "journal-locked"),
        (base.NoSolver(), Exit.PEER, "no-solver"),
        (base.Declined(), Exit.REFUSED, "declined"),
        (relayer.NoRelayer(), Exit.PEER, "no-relayer"),
        (relayer.FeeTooLow(fee=1), Exit.REFUSED, "fee-too-low"),
        (relayer.RelayerStoreError("held"), Exit.JOURNAL, "relayer-store"),
    ],
)
def test_an_error_ends_a_command_with_its_own_code(
    error: BaseException, exit_: Exit, code: str
) -> None:
    ending = exit_report_of(error)
    assert (ending.exit, ending.code, ending.trace) == (exit_, code, "")


def test_an_error_inside_groups_ends_the_command_as_itself() -> None:
    group = ExceptionGroup("a", [ExceptionGroup("b", [base.PeerSilent()])])
    assert exit_report_of(group).exit is Exit.PEER


def test_what_was_noted_about_an_error_is_said_after_it_once() -> None:
    inner = base.PeerSilent()
    inner.add_note("custody 0x1 stays open")
    group = ExceptionGroup("a", [inner, base.Declined()])
    group.add_note("custody 0x1 stays open")
    assert exit_report_of(group).message.count("custody 0x1 stays open") == 1
    interrupted = KeyboardInterrupt()
    interrupted.add_note("custody 0x2 stays open")
    abort = click.Abort()
    abort.__cause__ = interrupted
    assert exit_report_of(abort).message == "Interrupted. custody 0x2 stays open"


def test_a_bug_together_with_another_error_is_not_hidden_by_it() -> None:
    group = ExceptionGroup("a", [base.PeerSilent(), KeyError("secret value")])
    assert exit_report_of(group).exit is Exit.INTERNAL


def test_a_bug_shows_its_place_and_never_its_text() -> None:
    secret = "secret" + " value"
    try:
        raise KeyError(secret)
    except KeyError as error:
        ending = exit_report_of(error)
    assert ending.exit is Exit.INTERNAL
    assert "test_exit_report" in ending.trace
    assert secret not in ending.trace + ending.message + str(ending.values)


def test_every_exit_code_is_explained_in_help() -> None:
    assert set(MEANINGS) == set(Exit)


def all_errors(family: type[BaseException]) -> list[type[BaseException]]:
    return [one for sub in family.__subclasses__() for one in (sub, *all_errors(sub))]


def test_no_error_of_the_package_is_taken_for_a_bug_or_for_success() -> None:
    from psymm.cli.exit_report import family_of

    for kind in all_errors(base.PSymmError):
        assert family_of(kind) not in (Exit.OK, Exit.INTERNAL, Exit.INTERRUPTED), kind


def test_amounts_are_said_in_tokens_and_coins_and_stay_exact_for_programs() -> None:
    token = "0x" + "22" * 20
    low = custody.FundsTooLow(token, 5 * 10**18 + 1, 10**17, 0)
    assert "needed=5000000000000000001 units, available=" in exit_report_of(low).message
    low.in_tokens(18, "DAI")
    ending = exit_report_of(low)
    assert "needed=5.000000000000000001 DAI, available=0.1 DAI, under_way=0 DAI" in ending.message
    assert ending.values["needed"] == "5000000000000000001"
    poor = exit_report_of(chain.WalletWithoutGas("0x", 25 * 10**8, 15 * 10**14))
    assert "balance=2.5 gwei, needed=0.0015 ETH" in poor.message
    assert poor.values["needed_wei"] == "1500000000000000"
    # A relayer's reasons, which came over the wire as texts, too.
    none = relayer.NoRelayer(**{"0x1": relayer.FeeTooLow(fee="1500000", quote="2000000")})
    none.in_tokens(6, "pUSD")
    assert "fee=1.5 pUSD, quote=2 pUSD" in exit_report_of(none).message
