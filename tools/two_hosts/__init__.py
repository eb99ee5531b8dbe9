"""Two hosts with a PostgreSQL server between them, on one machine: ``python -m tools.two_hosts``."""
