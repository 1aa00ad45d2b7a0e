"""A session between a trader and a solver: the sans-IO protocol, and what runs it on trio."""
