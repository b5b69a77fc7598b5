"""What a statement of SQL does: its tables, columns, locks and bounds of transactions."""
