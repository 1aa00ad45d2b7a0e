"""Everything that touches a chain: JSON-RPC, transactions, contracts, the registry, the tree.

Theory of operation. From the bottom up:

    rpc           one request to one or several nodes: bounds, retries, typed errors
    replies       the shape that each answer must have; node_errors: what a node's error means
    reading       `ChainReader`: headers, state, calls, logs, receipts
    signing, raw  a transaction before and after its signature
    pending       one nonce until it is mined: wait, hand over again, replace at a higher fee
    transactions  `Chain`: nonces, fees, gas, sending
    contracts     `Pool` and `Token`; registry: the list of parties; tokens: trial transfers
    sync          `TreeSync`: the commitments and nullifiers, checked against the contract's root
    revocations   `RevocationWatch`: revoked session keys
    outbox        transactions that are no moves, until no reorganisation can take them back
    deploying, deployment, checking   put the contracts on a chain; compare them with this package

A node is not trusted. Answers have a shape and a size limit, and what moves money is checked
against the contract or against what was asked. Behind one address there can be several nodes, of
which some lag: one answer that shows less than an earlier one proves nothing, so it is asked for
again.

States of a transaction: prepared, signed, handed over, mined, deep enough. Each signed version of a
nonce is recorded before a node sees it (`record`, or the outbox). So after a crash the same bytes
can be handed over again, and at most one version of a nonce is ever mined. Only the chain ends a
wait: a receipt, or another transaction mined with the nonce. A node's word does not.

Durable when: `record` and the outbox are on disk before the hand-over; the tree and the revocations
are caches that can be read again from the chain.
"""
