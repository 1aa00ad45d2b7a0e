"""`python -m psymm` is `psymm`."""

from psymm.cli import main

main()
