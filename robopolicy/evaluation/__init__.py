"""Statistics, reports, paired comparison and the results ledger. Imports neither torch nor mujoco."""
