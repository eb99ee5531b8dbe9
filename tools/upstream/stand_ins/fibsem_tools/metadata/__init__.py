"""As in fibsem-tools."""
