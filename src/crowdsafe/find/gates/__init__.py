"""The patched drivers: each statement of an operation stops here until it is let go on."""
