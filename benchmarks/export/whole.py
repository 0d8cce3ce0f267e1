"""One forward pass over a whole scene, by PyTorch in fp32: what every export should say. `python -m ... SCENE OUT.npz`

The scene is reflected at its edges by the halo, as we do. Takes 10 GB for 4096 x 4096 px.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rasterio
import yaml

from benchmarks.export.networks import DEMO

# Where the two best classes are closer than this in probability, any runtime may take either.
TIE = 1e-5


def main() -> None:
    """Write classes uint8[H, W], valid bool[H, W] and tie bool[H, W]."""
    import torch
    from safetensors.torch import load_file

    from model_registry.architectures import build

    document = yaml.safe_load((DEMO / "model.yaml").read_text(encoding="utf-8"))
    properties, window = document["properties"], document["serving"]["window"]
    network = build(properties["architecture"], properties["hyperparameters"])
    network.load_state_dict(load_file(DEMO / "model.safetensors"))
    scaling = properties["input"][0]["value_scaling"]
    with rasterio.open(sys.argv[1]) as dataset:
        pixels, nodata = dataset.read(), dataset.nodata
    _, height, width = pixels.shape
    halo, step = window["halo"], window["multiple"]
    below, right = (-(height + 2 * halo)) % step, (-(width + 2 * halo)) % step
    padded = np.pad(pixels, ((0, 0), (halo, halo + below), (halo, halo + right)), mode="reflect")
    mean, deviation = (np.float32([band[key] for band in scaling])[:, None, None] for key in ("mean", "stddev"))
    scaled = (padded.astype(np.float32) - mean) / deviation
    with torch.inference_mode():
        scores = network.eval()(torch.from_numpy(scaled[None]))[0, :, halo : halo + height, halo : halo + width]
        best = torch.softmax(scores, dim=0).topk(2, dim=0)
        tie = (best.values[0] - best.values[1] < TIE).numpy()
        classes = best.indices[0].to(torch.uint8).numpy()
    part = Path(sys.argv[2]).with_suffix(".part.npz")
    np.savez(part, classes=classes, valid=(pixels != nodata).all(axis=0), tie=tie)
    part.replace(sys.argv[2])


if __name__ == "__main__":
    main()
