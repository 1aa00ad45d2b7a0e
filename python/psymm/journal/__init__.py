"""The journal: every custody's frames, and what belongs to them, on disk before they are sent.

One SQLite file in WAL mode with full synchronisation, one writer, any number of readers.

Who calls whom: `writer` (the one `Journal`, which is also a `reader`) gathers what one scheduling
round wrote, makes it in one transaction and tells each caller once it is durable. `connection`
opens, locks and checks the file; `schema` has its tables; `codec`, `heads`, `encryption` and
`outbox` turn rows into values and back; `retention` keeps checkpoints and what is left of frames
that were pruned before one. Above them, `base_snapshot`, `replayed`, `tail` and `export` read
records out of it, `backup` copies it while its writer runs, and `repair` makes a new journal out
of what a damaged one still holds.

What is durable when: a write is durable when the awaiting call returns; all of its changes are, or
none. A frame is sent only after that, so a process killed at any instant reopens with the same
heads and never signs a second frame with one (custody, lane, seq). Marks of what was sent ride
with the next commit: a frame whose mark is lost is sent again, byte for byte.

States: a custody's `health` is `complete` (it may sign), `recovering` (frames up to heads that are
known must still be fetched; then it is complete) or `read-only` (a backup, or repaired without
certainty about its newest heads; it never signs again). A writer whose disk refused once is
broken: every later write fails with the same error until the journal is opened anew.

How loss is seen: each frame has a checksum that binds it to its place, the heads stand apart from
the frames, and the `high_water_mark` beside the file knows how many frames there were.
"""
