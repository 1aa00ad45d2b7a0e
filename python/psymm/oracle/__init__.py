"""The oracle (`spec.md` 41, 42, 47): signers who agree on one round of all prices each second.

    rounds      what a round is, who signed it, and what it proves. Pure; the rulebook uses it

Importing this package imports nothing.
"""
