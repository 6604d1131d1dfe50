"""Compare a digits bundle with the PyTorch model it came from, on every held-out image.

python examples/digits/evaluate.py out/digits-model out/digits
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from data import load

from dinat_deploy.bundle import open_bundle
from dinat_deploy.models.checkpoints import read_checkpoint
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.weights import model_from_state
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory written by train.py")
    parser.add_argument("bundle", type=Path, help="directory written by dinat-deploy export")
    options = parser.parse_args()

    _, held_out = load()
    images = held_out.inputs()
    checkpoint = read_checkpoint(options.model)
    assert checkpoint.config is not None
    model = model_from_state(checkpoint.config, fit(checkpoint, checkpoint.config).state)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    session = OnnxRuntimeSession(open_bundle(options.bundle).model_path)
    found = session.run({"image": images})["logits"]

    different = int((expected.argmax(1) != found.argmax(1)).sum())
    for name, logits in (("PyTorch", expected), (session.name, found)):
        print(f"{name}: {np.mean(logits.argmax(1) == held_out.classes):.2%} correct")
    print(f"largest logit difference {np.abs(expected - found).max():.1e}")
    print(f"predictions that differ: {different} of {len(images)}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
