"""The traffic room beside the libraries that do the same."""
