"""Everything that touches a chain: JSON-RPC, transactions, contracts, the registry, the tree."""
