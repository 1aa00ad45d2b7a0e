"""Sockets as daemons and clients of pSymm use them: who may connect, TLS, and what a connection
may make this process receive. What is said on them is not known here."""
