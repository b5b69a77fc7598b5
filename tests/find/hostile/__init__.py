"""Targets that hang, crash and misbehave: the finder says so, and goes on."""
