"""Tests that need an NVIDIA GPU; skipped, with the reason, where there is none."""
