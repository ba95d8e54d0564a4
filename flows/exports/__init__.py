"""Files of rows below EXPORT_ROOT: where they lie, what they say of themselves, how they are written and merged."""
