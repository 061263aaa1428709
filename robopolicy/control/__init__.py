"""From action chunks in absolute time to limited setpoints: one code for simulation and robot. Numpy only."""
