"""Feeds over WebSockets as declarations: what is said, what answers mean, where rows are. Pure, but for `pulse`."""
