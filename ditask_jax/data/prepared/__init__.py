"""Data sets prepared once as TFDS sets: smaller files, fast reading."""
