"""Run by geoai's own Python: `python geoai_run.py SCENE SCRIPT OUT WINDOW OVERLAP CLASSES`."""

from __future__ import annotations

import sys


def main() -> None:
    """Its windows, blended by its default, most probable class."""
    import torch
    from geoai.inference import predict_geotiff

    scene, script, out, window, overlap, classes = sys.argv[1:]
    predict_geotiff(
        torch.jit.load(script).eval(),
        scene,
        out,
        tile_size=int(window),
        overlap=int(overlap),
        batch_size=4,
        num_classes=int(classes),
        output_dtype="uint8",
        output_nodata=255,
        postprocess_fn=lambda scores: scores.argmax(0).astype("u1"),
        device="cpu",
        verbose=False,
    )


if __name__ == "__main__":
    main()
