"""How fast data are read, side by side with what others use; ``robopolicy data bench``."""
