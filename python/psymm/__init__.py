"""pSymm: private, symmetric OTC derivatives between two parties, with nobody between them."""
