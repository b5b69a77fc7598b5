"""Tells whether an outcome is one that some serial order gives, and names it when not."""
