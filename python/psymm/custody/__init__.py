"""Notes and custodies: openings, memos, proofs; moves into, between and out of custodies.

Theory of operation. A note is an amount of one token bound to a custody; the chain knows only its
commitment and, once it is spent, its nullifier. A wallet changes its notes by moves:

    deposit (ATC)         tokens of an account become a note in the wallet's sole custody
    fund, merge (CTC)     notes become other notes, between custodies or in one
    settle (CTC)          both parties sign; all notes of their custody are paid out
    withdraw (CTA)        tokens leave the sole custody for an address

Who calls whom: `moves.Vault` is what a wallet's owner calls. `making.MoveMaker` chooses notes, has
them planned (`planning`), signed and proved (`proving`, which runs `prover`), and passes the call
to `sending.MoveTracker`. The tracker hands it to a `Sender` (a relayer, or one's own account) and
waits until `chain.sync.TreeSync` shows it. `store.NoteStore` keeps notes, moves and signed
transactions. `viewing` derives blindings and seals memos, so `recovery` finds a wallet's notes from
its key and the chain alone. `settlement` builds and checks the move that pays both parties,
`settling` signs, proves and sends it; `openings` verifies the other party's collateral.

States of notes and moves: see `stored`. What the chain shows is not recorded as history: each
refresh compares the store with the tree (`reconcile`), so a reorganisation needs no undo.

Durable when: a counter before the blinding that it gives; a move before its signature is made; its
proved call before any sender sees it; each signed transaction before a node sees it. So a move that
was cut off anywhere is repeated as the same bytes or the same call, and the chain accepts it once.
"""
