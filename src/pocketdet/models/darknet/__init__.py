"""Darknet's networks: a reader of its configuration language, the network that it describes, its weight files."""
