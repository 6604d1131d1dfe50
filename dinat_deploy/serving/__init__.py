"""Model repositories for Triton and self-contained folders for the runner in C++."""
