"""Apps and functions of the target, and the requests that make up an operation."""
