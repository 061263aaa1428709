"""The YAML of the project, as package data: embodiment, task, policy, recipe, robot, deploy."""
