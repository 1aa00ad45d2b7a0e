"""Notes and custodies: openings, memos, proofs, moves in, across and out."""
