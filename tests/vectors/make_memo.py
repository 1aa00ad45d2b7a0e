"""Makes memo.json: memos of a wallet whose key is 0x0101…01, as psymm.custody.viewing seals them.

Made once.  The memos in the file must open for ever; making it anew would prove nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import trio

from psymm._core import SecretKey
from psymm.custody.notes import Custody
from psymm.custody.viewing import viewing_key
from psymm.wallet import KeyWallet

CHAIN_ID = 31337
CONTRACT = "0xeD44e116Ac6Ce28043c6d8d2938c0Ab9B8B68860"
TOKEN = "0x0B30e6b85813001F9e0812017D1Dd8fF7AC4A01A"


async def main() -> None:
    owner, other = (KeyWallet(SecretKey.from_bytes(bytes([one]) * 32)) for one in (1, 2))
    key = await viewing_key(owner, CHAIN_ID, CONTRACT)
    terms, salt = b"\x09" * 32, b"\x08" * 32
    custodies = (
        key.sole,
        Custody(owner.public_key, other.public_key, terms, salt),
        Custody(other.public_key, owner.public_key, terms, salt),
    )
    amounts = ((0, 0), (1_000_000, 7), ((1 << 128) - 1, (1 << 63) - 1))
    memos = []
    for custody in custodies:
        for amount, counter in amounts:
            note = key.note(custody, TOKEN, amount, counter)
            memos.append(
                {
                    "custodyId": "0x" + custody.id.hex(),
                    "token": TOKEN,
                    "amount": str(amount),
                    "counter": str(counter),
                    "blinding": "0x" + note.blinding.hex(),
                    "commitment": "0x" + note.commitment.hex(),
                    "memo": "0x" + key.seal(note, counter).hex(),
                }
            )
    about = {
        "about": "Memos of the wallet 0x0101…01; see make_memo.py and psymm.custody.viewing",
        "chainId": CHAIN_ID,
        "contract": CONTRACT,
        "viewingSecret": "0x" + key.secret.hex(),
        "memos": memos,
    }
    Path(__file__).with_name("memo.json").write_text(json.dumps(about, indent=1) + "\n")


trio.run(main)
