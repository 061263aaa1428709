"""Robot drivers, and what plays the robot where there is none."""
