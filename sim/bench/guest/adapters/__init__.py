"""One file per benchmark; each imports its benchmark when it is loaded."""
