"""Work on files: read, stylise, write."""
