"""What both parties of a custody signed: the record of its frames and the file that shows it.

Pure but for `verifying`, which gathers frames of many sessions into batches on trio. Nothing here
knows of SQLite or of the journal.

A custody begins with an `agreement` (both wallets, terms, salt; its hash is the custody's id) and,
where a solver is met over the network, with a signed `introduction`. Session keys sign frames
under a `delegation` by the wallet. A `record` takes frames one by one in order of arrival: each is
refused, or joins its lane and moves its `heads`. Two ends that meet again compare heads by signed
`resumption` texts and then append what the other shows.

A record begins with the first frame of all or at a `checkpoint` in force: heads, the few frames
that carry the keys, and the hash of an account that both lanes signed. Of the frames before it
only those that `retained` names must still be known.

`file` is the same record as one file (`*.psymm`), verified without chain, clock or trust: first
which keys were delegated, then chain and signatures of all frames in one pass of the core.

Durability is the journal's: what a record has appended is lost with the process unless
`psymm.journal` has written it, which is always the case before a frame is sent.
"""
