"""Programs around the packages: the demo. Nothing here is part of what gets installed."""
