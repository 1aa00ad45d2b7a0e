"""`psymm oracle`: its configuration is read strictly, and mistakes are named before it signs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
import trio

from psymm._core import SecretKey
from psymm.chain.deployment import Deployment
from psymm.cli.exit_status import CommandError
from psymm.cli.oracle_config import load_oracle
from psymm.errors import PSymmError
from psymm.oracle.rounds import OracleError, RoundLeaf, SignersUnsound
from psymm.wallet import save_keystore

KEYS = [SecretKey.from_bytes(bytes(31) + bytes([n])) for n in (1, 2, 3)]
ONE = 10**18
GOOD = (
    'threshold = 2\ntolerance = "0.002"\n'
    + "".join(
        f'[[signer]]\naddress = "{key.address}"\nendpoint = "ws://127.0.0.1:{n}"\n'
        for n, key in enumerate(KEYS, 9300)
    )
    + '[source]\nkind = "lines"\nsocket = "prices.sock"\n[[feed]]\nname = "BTC/USD"\n'
)
REPLAY = GOOD[: GOOD.index("[source]")] + (
    '[source]\nkind = "replay"\nvalues_per_second = "1"\nstarted = 2026-01-01T00:00:00Z\n'
    "from = 2018-10-01\nto = 2018-12-31\nfunding_epoch_s = 3600\n"
    '[[feed]]\nname = "SPX"\nseries = "sp500:Close"\nfunding_rate = "-0.0001"\n'
    '[[feed]]\nname = "wti"\n'
)


def written(path: Path, text: str) -> Path:
    file = path / "oracle.toml"
    file.write_text(text)
    return file


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    text = files("psymm").joinpath("docs", "oracle.toml").read_text()
    settings = load_oracle(written(tmp_path, text))
    assert len(settings.signers.addresses) == 3
    assert settings.socket == "prices.sock"
    assert settings.tolerance.price == ONE // 500


def test_defaults(tmp_path: Path) -> None:
    settings = load_oracle(written(tmp_path, GOOD))
    assert settings.signers.threshold == 2
    assert settings.grid_ns == 10**9
    assert settings.keep_s == 30 * 86_400
    assert settings.endpoints[KEYS[1].address] == "ws://127.0.0.1:9301"
    assert settings.board is settings.source


def test_a_replay_gives_every_signer_the_same_prices_and_rates(tmp_path: Path) -> None:
    at = 1_767_225_600 * 10**9 + 5 * 10**9  # five seconds after it started
    one, two = (load_oracle(written(tmp_path, REPLAY)).source.read(at) for _ in range(2))
    assert one == two
    spx, wti, rate = one
    assert (spx.feed, wti.feed) == ("SPX", "wti")
    assert spx.value == 2_884_429_932_000_000_000_000  # sp500 Close of 2018-10-08
    assert rate == RoundLeaf("SPX", -(10**14), at // (3600 * 10**9) * 3600 * 10**9)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("threshold = 2", "threshold = 1", "more than half"),
        ("threshold = 2", "threshold = 4", "more than half"),
        ("threshold = 2", 'threshold = "2"', "threshold"),
        ('tolerance = "0.002"', "tolerance = 0.002", "tolerance"),
        ('tolerance = "0.002"', 'tolerance = "0"', "tolerance"),
        ('tolerance = "0.002"', "", "tolerance"),
        ('tolerance = "0.002"', 'tolerance = "0.002"\ntolerence = "1"', "tolerence"),
        (KEYS[1].address, KEYS[0].address, "two signers"),
        (KEYS[1].address, KEYS[1].address.swapcase(), "address"),
        (KEYS[1].address, "0x00", "address"),
        ('kind = "lines"', 'kind = "http"', "kind"),
        ('kind = "lines"', 'kind = "lines"\nstarted = 2026-01-01', "started"),
        ('name = "BTC/USD"', 'name = "BTC USD"', "BTC USD"),
        ('name = "BTC/USD"', f'name = "{"B" * 33}"', "BBB"),
        ('name = "BTC/USD"', 'name = "BTC/USD"\n[[feed]]\nname = "BTC/USD"', "twice"),
        ('name = "BTC/USD"', 'name = "BTC/USD"\nprice = "1"', "price"),
        ('[[feed]]\nname = "BTC/USD"\n', "", "[[feed]]"),
        ("[source]", "[sources]", "sources"),
        ("threshold", "= threshold", "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in GOOD
    with pytest.raises((CommandError, SignersUnsound)) as raised:
        load_oracle(written(tmp_path, GOOD.replace(old, new)))
    error = raised.value
    text = error.message if isinstance(error, CommandError) else str(error)
    assert named in text


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("started = 2026-01-01T00:00:00Z\n", "", "started"),
        ("started = 2026-01-01T00:00:00Z", "started = 2026-01-01T00:00:00", "zone"),
        ('values_per_second = "1"', 'values_per_second = "-1"', "values_per_second"),
        ("funding_epoch_s = 3600\n", "", "funding_epoch_s"),
        ('funding_rate = "-0.0001"', 'funding_rate = "much"', "funding_rate"),
        ('name = "wti"', 'name = "no-such"', "no-such"),
        ("from = 2018-10-01", "from = 2999-10-01", "no prices"),
    ],
)
def test_a_mistake_of_a_replay_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in REPLAY
    with pytest.raises(CommandError) as raised:
        load_oracle(written(tmp_path, REPLAY.replace(old, new)))
    assert named in raised.value.message


def run(home: Path, *options: str) -> tuple[int, dict[str, object]]:
    ran = subprocess.run(
        [sys.executable, "-m", "psymm", "oracle", "--json", "--home", str(home),
         "--config", str(home / "oracle.toml"), "--listen", "127.0.0.1:0",
         "--password-fd", "0", *options],
        input="secret\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip
    return ran.returncode, json.loads(ran.stdout.splitlines()[-1])["error"]


def home_of(path: Path, text: str, key: SecretKey) -> Path:
    home = path / "home"
    home.mkdir(mode=0o700)
    written(home, text)
    contracts = ["0x" + f"{n:040x}" for n in range(0xC1, 0xC7)]
    Deployment(31337, "dev", 1, *contracts).save(home / "deployment.json")

    async def save() -> None:
        await save_keystore(home / "keystore.json", key, "secret", scrypt_cost=2)

    trio.run(save)
    return home


def test_a_wallet_that_is_no_signer_signs_nothing(tmp_path: Path) -> None:
    home = home_of(tmp_path, GOOD, SecretKey.from_bytes(bytes(31) + b"\x09"))
    code, error = run(home)
    assert (code, error["code"]) == (2, "not-a-signer")
    assert not (home / "oracle.db").exists()


def test_standard_input_cannot_be_both_prices_and_the_end(tmp_path: Path) -> None:
    home = home_of(tmp_path, GOOD.replace('socket = "prices.sock"\n', ""), KEYS[0])
    code, error = run(home, "--until-stdin-closes")
    assert (code, error["code"]) == (2, "usage")
    assert "source.socket" in str(error["message"])


def test_every_error_of_the_oracle_has_a_code_of_its_own() -> None:
    for name in ("client", "sources", "store", "wire"):
        import_module(f"psymm.oracle.{name}")
    found: list[type[PSymmError]] = list(OracleError.__subclasses__())
    assert len(found) > 8
    assert len({one.code for one in found}) == len(found)
    for one in found:
        assert one.code.startswith("oracle-")
        assert one.what
        assert one.remedy
