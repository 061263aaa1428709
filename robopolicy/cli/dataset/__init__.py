"""Subcommands of ``robopolicy data``, one file each, named like the subcommand."""
