import mmap
import sys

from psymm import capi

path, domain, custody, trader, solver = sys.argv[1:]
keys = [(0, 1, bytes.fromhex(trader)), (1, 1, bytes.fromhex(solver))]
with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as frames:
    summary = capi.verify_transcript(
        frames, bytes.fromhex(domain), bytes.fromhex(custody), keys, threads=0
    )
    print(summary.frames, summary.heads[0].digest.hex(), capi.keccak256_many([frames]).hex())
