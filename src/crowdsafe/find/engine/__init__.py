"""Runs operations at once under a schedule, and searches the schedules."""
