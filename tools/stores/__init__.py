"""Object stores to try the log on: a faulty one, and moto."""
