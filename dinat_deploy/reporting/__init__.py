"""What a page about bundles shows: what was found in them, and how it is drawn."""
