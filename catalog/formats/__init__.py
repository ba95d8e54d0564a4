"""How pages write times: with their zone, always."""
