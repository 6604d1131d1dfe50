"""What helps to choose a model: dilations that fit, what a token sees, the time a device needs.

Everything here follows from a model's configuration; nothing needs weights, and only
:mod:`dinat_deploy.choosing.gradient` needs PyTorch.
"""
