"""Action spaces as controllers between a policy and the robot: each is a derived card and a pair of translations."""
