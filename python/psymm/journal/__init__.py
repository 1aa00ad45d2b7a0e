"""The journal: every custody's frames, and what belongs to them, on disk before they are sent.

One SQLite file in WAL mode with full synchronisation, one writer, any number of readers.

Who calls whom: a session makes `Change`s with the one `writer` and gives them to one write.
`committer` gathers what one scheduling round wrote, makes it in one transaction and tells each
caller once it is durable. `connection` opens, locks and checks the file; `schema` has its tables;
`rounds` has the frames, one row for each write; `secret_store` has what only the wallet can open;
`heads`, `codec`, `encryption` and `outbox` turn rows into values and back; `retention` keeps
checkpoints and what is left of frames that were pruned before one. Above them, `base_snapshot`,
`replayed`, `tail` and `export` read records out of it, `backup` copies it while its writer runs,
`inspection` says what a damaged file still holds, and `repair` makes a new journal of that.

What is durable when: a write is durable when the awaiting call returns, or when its `then` is
called; all of its changes are, or none. A frame is sent only after that, so a process killed at any
instant reopens with the same heads and never signs a second frame with one (custody, lane, seq).

What is derived: the newest heads are those of the table `heads` and of the frames after them. Each
commit leaves the heads that it moved in one row beside the frames, so that a loss has a name; every
64 commits, and when the journal is opened and closed, they are folded into the table. What was sent
is not kept at all: peers that meet compare heads. Only for a custody that has ended, and whose peer
need not come again, is it kept up to which frame the peer is known to have ours.

States: a custody's `health` is `complete` (it may sign), `recovering` (frames up to heads that are
known must still be fetched; then it is complete) or `read-only` (a backup, or repaired without
certainty about its newest heads; it never signs again). A writer whose disk refused once is
broken: every later write fails with the same error until the journal is opened anew.

How loss is seen: each frame has a checksum that binds it to its place, places have no holes, the
heads stand apart from the frames, and the `high_water_mark` beside the file knows how many frames
there were.
"""
