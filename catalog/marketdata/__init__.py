"""The stored rows: one table for each declared schema, and the only SQL of the project."""
