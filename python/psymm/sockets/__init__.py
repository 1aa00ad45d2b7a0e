"""Sockets for pSymm's daemons and clients: who may connect, TLS, and what a connection may make
this process receive. This package does not know what is said on a connection."""
