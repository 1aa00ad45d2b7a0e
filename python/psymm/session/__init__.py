"""A session between a trader and a solver.

`protocol` decides and does no input or output; `runtime` runs it on trio. `docs/architecture.md`
follows a frame, an order and a settlement through both.
"""
