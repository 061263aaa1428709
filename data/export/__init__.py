"""Writers of other formats: one file per format."""
