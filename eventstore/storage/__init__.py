"""Where commits are kept: the protocol that the log talks to, and its adapters."""
