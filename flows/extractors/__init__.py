"""One file for each vendor; `base` holds what all of them share."""
