"""Readers of file formats: bytes in, raw Arrow tables out, in blocks that do not grow with the file."""
