"""One trainer, recipes as data, exact resume."""
