"""The server of the systems: one application (``app``), in one process or in several (``serving``).

Imports nothing by itself, so that ``crowdsafe user`` needs no web framework.
"""
