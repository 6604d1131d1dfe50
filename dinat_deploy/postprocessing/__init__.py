"""From outputs of segmenters and detectors to answers about the picture, and their drawings."""
