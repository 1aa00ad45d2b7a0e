"""The journal: every custody's frames and all that belongs to them, on disk before they are sent.

One SQLite file in WAL mode with full synchronisation, one writer, any number of readers.

Who calls whom. A session makes `Change`s with the one `writer` and passes them to one write:

    writer          what can be written: makes `Change`s
    committer       gathers the writes of one scheduling round
    transaction     makes them durable in one transaction
    connection      opens, locks and checks the file
    schema          the tables
    rounds          the frames: one row for each custody of a commit
    secret_store    what only the wallet can decrypt
    heads, codec, encryption, outbox
                    convert between rows and values
    retention       checkpoints, and what is left of frames that were pruned

These modules build on them:

    base_snapshot, replayed, tail, export
                    read records
    backup          copies the journal while its writer runs
    inspection      reports what a damaged file still holds
    repair          builds a new journal from that

Durable when. A write is durable when the awaiting call returns, or when its `then` is called. All
of its changes are durable, or none. A frame is sent only after that. So a process killed at any
moment reopens with the same heads, and never signs a second frame with one (custody, lane, seq).

Derived. The newest heads follow from the table `heads` and the frames after it. Each commit also
leaves the heads that it moved in one extra row, so that a loss can be named. They are folded into
the table every 64 commits, and when the journal is opened and closed. The journal does not record
what was sent: peers compare heads when they connect. There is one exception. For an ended custody,
whose peer need not connect again, it records up to which frame the peer has ours.

States. A custody's `health` is one of

    complete    it may sign
    recovering  frames up to known heads must still be fetched; then it is complete
    read-only   a backup, or repaired without certainty about its newest heads; never signs again

After one refusal of the disk a writer is broken: every later write fails with the same error, until
the journal is opened again.

How loss is detected. Each frame has a checksum that binds it to its place. Places have no holes.
The heads are stored apart from the frames. And the `high_water_mark` next to the file counts how
many frames there were.
"""
