"""Images, with labels or without, read one at a time."""
