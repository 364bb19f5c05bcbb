"""How text is produced."""
