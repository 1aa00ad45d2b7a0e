"""The relayer: sends other people's finished moves and earns the fee that they contain.

A relayer sees what the chain will show anyway (nullifiers, commitments, proof) and the address of
the client's socket. It cannot change a call, because the custody's owners sign the fee, its address
and every output. It can only fail to send the call, and then the client asks another relayer.

Theory of operation. `sender.RelayerSender` is the client. It asks several relayers for quotes, and
the vault signs and proves a call that names one of them. The client submits the call, then confirms
on its own node that it was mined (`confirming`). `service.RelayerService` is the server: it serves
clients and admits calls; `lane.NonceLane` sends them. `wire` has the messages between client and
server, `store` the server's file.

A send in the server is
    queued   accepted and on disk; no transaction is signed yet
    sent     a signed transaction is on disk; a node may have it
    mined    one of its transactions is mined at the configured depth
    failed   refused, or its nonce was given up

One task of the nonce lane signs and hands over one send after the other. Each sent one has a task
of its own that waits for it, raises its fee, or gives its nonce to an empty transaction.

Durable when: a call before its client gets "queued"; each signed transaction before a node sees it.
So after a crash every accepted call is either still to be sent, or its transactions are known and
are handed over again as the same bytes.
"""
