"""One file for each kind of destination; `base` holds what all of them share."""
