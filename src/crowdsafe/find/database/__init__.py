"""The throw-away copy of the database that the target works on, and who waits in it."""
