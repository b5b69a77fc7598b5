"""Ratios against hand-written peers, measured side by side in one run. `python -m bench`."""
