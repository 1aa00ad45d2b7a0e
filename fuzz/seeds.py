"""Writes a first corpus for the fuzz targets: from the shared vectors for those that read
frames and JSON, and bytes without a meaning for those that build their inputs out of them.

Files that are there already stay: a corpus that fuzzing has grown is not touched.
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
VECTORS = HERE.parent / "tests" / "vectors"

MESSAGES = [
    '{"MsgType":"0"}',
    ' {"MsgType":"0"}',
    '{"MsgType":"D","ClOrdID":"a","Side":"1"}',
    '{"MsgType":"D","ClOrdID":"a","Side":"2","Count":"18446744073709551615","Amount":"1"}',
    '{"MsgType":"D","Side":"1","ClOrdID":"\\u00e9\\ud83d\\ude00","Price":"-1.5","Qty":"0.1"}',
    '{"MsgType":"D","ClOrdID":"a","Side":"1","Id":"0x0aff","Blob":"0x0102","Flag":"Y"}',
    '{ "MsgType" : "D" , "Legs":[{"Symbol":"b","Inner":[{"MsgType":"N"}]},{"Symbol":"c"}],'
    '"ClOrdID":"\\"\\\\\\n","Side":"1"}',
    '{"MsgType":"T","Text":"' + "long " * 100 + '"}',
    '{"messages":{"D":{"name":"N","fields":[{"name":"A","type":"hex","length":2},'
    '{"name":"G","type":"group","max":3,"fields":[{"name":"B","type":"bool"}]}]}}}',
    "-12.000000000000000001",
]


def plant(target: str, seeds: list[bytes]) -> None:
    corpus = HERE / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        path = corpus / f"seed-{number}"
        if not path.exists():
            path.write_bytes(seed)


def main() -> None:
    vectors = json.loads((VECTORS / "frame.json").read_text())
    frames = [bytes.fromhex(case["raw"].removeprefix("0x")) for case in vectors["frames"]]
    trailer = 97
    plant(
        "frame",
        [b"\x00" + frame for frame in frames]
        + [b"\x01" + frame[:-trailer] for frame in frames]
        + [b"\x00" + b"".join(frames[:3])],
    )
    payloads = [bytes.fromhex(case["payload"].removeprefix("0x")) for case in vectors["frames"]]
    plant("json", payloads + [message.encode() for message in MESSAGES])
    # Long ones, so that batches of some size are there from the start.
    meaningless = [
        hashlib.shake_128(length.to_bytes(2)).digest(length) for length in (40, 200, 1000, 4000)
    ]
    plant("transcript", meaningless)
    plant("claims", meaningless)
    plant("c_abi", meaningless)


if __name__ == "__main__":
    main()
