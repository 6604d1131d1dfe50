"""Ranges of activations, recorded on data, and what quantizing each layer costs."""
