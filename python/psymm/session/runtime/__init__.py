"""What runs sessions on trio: sockets, rounds, effects, settlement, client and server.

Who calls whom: `solver` listens and `trader` dials. Both meet the peer in `handshake`, then hand
the socket to a `runner`. Each socket's reader puts what it read into an `Inlet` of `rounds`. One
round reads the clock once, verifies the frames of up to 32 sockets in one batch, and gives each
session's `runner` its own. The runner asks the protocol what to do, and carries out the effects
that it returns. Nothing else carries effects out.

The other modules:

- `party` loads a custody's session from the journal.
- `ledger` connects the protocol to the rulebook.
- `collateral` is what a session needs of notes, proofs and chain.
- `settlement` turns a flat account into one move.
- `key_rotator` renews session keys.
- `protection` holds the kill switch and the caps.
- `peer_recovery` fetches frames that the journal lost.
- `preflight` checks what can be known before anything is funded.
- `idle` settles custodies that nobody uses.
- `archive`, `left`, `reading` and `report` read what is there.
- `stats` and `metrics` count.

What is durable when: the runner gives everything that one list of effects stores to the journal as
one write. Only when that is on disk does it send and report events. The lists of a session keep
their order. Sessions that write in the same scheduler step share one commit.

States: a session outlives its connections. Between two connections it signs nothing.
`SessionRunner` ends when it is cancelled, when the journal fails, or when a listener raises.
"""
