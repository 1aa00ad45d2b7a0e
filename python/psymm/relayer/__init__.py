"""The relayer: sends other people's finished moves and earns the fee that is bound in them.

A relayer sees what the chain will show anyway (nullifiers, commitments, proof) and the address of
the socket that brought it. It cannot change a call, since the fee, its own address and every output
are signed by the custody's owners; all that it can do is not to send, and then another is asked.

`service` is the server, `sender` the client, `wire` what they say to each other, `store` what a
server remembers across restarts.
"""
