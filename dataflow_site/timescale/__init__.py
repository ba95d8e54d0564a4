"""Database backend of timescale:// URLs: PostgreSQL whose tables with a TimescaleDateTimeField become hypertables."""
