"""Finds the races of a backend: it runs its operations at once, statement by statement."""
