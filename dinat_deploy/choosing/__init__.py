"""What helps to choose a model: dilations that fit, what a token sees, the time a device needs,
what others cost, and what the parts of a model do.

Nothing here needs weights of a checkpoint. Only ``gradient``, ``rivals`` and ``ablation_training``
need PyTorch.
"""
