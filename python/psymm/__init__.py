"""pSymm: private, symmetric OTC derivatives between two parties who trust nobody between them."""
