"""The command line: one file per verb; a verb is a module here with a function ``run(argv) -> int``."""

__all__: list[str] = []
