"""The transcript: the record of what both parties of a custody signed, and the file that shows it.

Everything here is pure, except `verifying`, which batches frames of many sessions on trio. Nothing
here knows SQLite or the journal.

    agreement      both wallets, terms and salt; their hash is the custody's id
    introduction   what a solver signs before a trader funds
    delegation     how a wallet lets a session key sign frames
    record         all frames in order of arrival; a frame is refused, or joins its lane
    heads          the last frame of each lane, and whether the custody may sign
    resumption     signed texts by which two ends prove themselves and compare heads
    checkpoint     a checkpoint at which a record can begin
    retained       which frames from before a checkpoint must still be known
    file, file_opening
                   the same record as one file (`*.psymm`)
    verifying      verifies frames of many sessions in batches, before records append them

A record begins with the first frame, or at a checkpoint in force. A checkpoint consists of heads,
the few frames that carry the keys, and the hash of an account that both lanes signed.

A file is verified without chain, clock or trust: first the delegations of keys, then the links and
signatures of all frames, in one pass of the core.

Durable: nothing here. A record is lost with the process, unless `psymm.journal` has written it,
which it always does before a frame is sent.
"""
