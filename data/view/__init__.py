"""Episodes to look at: one HTML file that needs nothing else, or a recording for rerun."""
