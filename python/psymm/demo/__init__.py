"""`python -m psymm.demo`: a private trade from discovery to withdrawal, on real parts.

It starts a development chain, deploys the contracts with a token of six decimals, and runs a
relayer, two solvers and a trader. Each is a process with its own home and wallet; they share only
the chain and sockets. Everything goes through the command line, so it can be repeated by hand; the
commands are in commands.log.

Prices are closing values of real markets from the package `arch`. They advance with each firm quote
and never with the clock, so the outcome does not depend on the machine's speed. SEED (an
environment variable) chooses the amounts and the days; two runs with the same SEED differ in keys,
proofs and times. The demo ends with three results: what each party gained and lost, what an
observer of the chain saw, and the transcript with the command that verifies it. Any difference
between the tokens on chain and the rulebook's account is an error.
"""
