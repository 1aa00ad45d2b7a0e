"""The oracle (`spec.md` 41, 42, 47): signers who agree on one round of all prices each second.

    rounds      what a round is, who signed it, and what it proves. The rulebook uses it
    agreement   what a signer proposes, signs and refuses
    wire        what signers and followers say to each other
    sources     where a signer's own prices come from
    feeding     prices line by line, from standard input or a local socket
    store       what a signer must not forget
    broadcast   rounds to any number of followers
    client      follows rounds and believes no signer
    service     runs one signer; the command line starts it

Rounds, agreement, wire and sources are pure. Importing this package imports nothing.
"""
