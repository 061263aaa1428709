"""Tasks of the simulator; each is one file with a YAML in ``configs/task``."""
