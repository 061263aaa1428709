"""MJCF of the robots, our own text; one file per embodiment, named by the ``simulation`` entry of its card."""
