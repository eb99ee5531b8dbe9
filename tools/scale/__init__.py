"""How far one log goes: measured, simulated, and what it costs."""
