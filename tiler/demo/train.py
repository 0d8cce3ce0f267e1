"""Train the demo network on invented landscapes: `python -m tiler.demo.train`.

Writes model.safetensors and model.yaml into the output folder and prints how well a landscape never seen is mapped.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from model_registry.architectures import build
from tiler.demo.card import CLASSES, DEVIATION, HYPERPARAMETERS, MEAN, write_card
from tiler.demo.landscape import NO_LABEL, Landscape, generate
from tiler.demo.probe import measure_halo

TRAINING_SEEDS = tuple(range(101, 121))
EVALUATION_SEED = 977  # neither trained on nor shown in the demo, which is seed 42
TRAINING_SIZE = 1536
EVALUATION_SIZE = 2048
CROP = 256
BATCH = 6


@dataclass(frozen=True)
class Quality:
    """Agreement with the truth on one landscape, shares of 1."""

    iou: tuple[float, ...]  # one a class, in class order
    accuracy: float

    @property
    def mean_iou(self) -> float:
        """Mean over the classes."""
        return float(np.mean(self.iou))


def normalise(rgb: NDArray[np.uint8]) -> Tensor:
    """Digital numbers uint8 [3, H, W] to the network's input float32 [3, H, W]."""
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
    return (torch.from_numpy(rgb).float() - mean) / deviation


def fill_unseen(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture as the server hands it over: unseen pixels hold the fill value of the model card."""
    return rgb * valid.astype(np.uint8)


def batches(scenes: list[Landscape], rng: np.random.Generator, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops, `steps` times: input float32 [B, 3, CROP, CROP] and labels int64 [B, CROP, CROP]."""
    for _ in range(steps):
        crops = [_crop(scenes[rng.integers(len(scenes))], rng) for _ in range(BATCH)]
        yield torch.stack([x for x, _ in crops]), torch.stack([y for _, y in crops])


def _crop(scene: Landscape, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One crop, turned and mirrored at random, its brightness and tint varied, unseen pixels left at the fill."""
    size = scene.labels.shape[0]
    top, left = rng.integers(0, size - CROP + 1, 2)
    rgb = scene.rgb[:, top : top + CROP, left : left + CROP].astype(np.float32)
    labels = scene.labels[top : top + CROP, left : left + CROP]
    valid = labels != NO_LABEL
    varied = rgb * rng.normal(1, 0.03) * rng.normal(1, 0.012, (3, 1, 1)) + rng.normal(0, 2)
    digital = np.where(valid, np.clip(varied, 1, 255), 0).astype(np.uint8)
    turns = int(rng.integers(4))
    digital, labels = np.rot90(digital, turns, (1, 2)), np.rot90(labels, turns)
    if rng.random() < 0.5:
        digital, labels = digital[:, :, ::-1], labels[:, ::-1]
    return normalise(np.ascontiguousarray(digital)), torch.from_numpy(np.ascontiguousarray(labels)).long()


def class_weights(scenes: list[Landscape]) -> Tensor:
    """Rare classes count more, by the fourth root of their rarity: float32 [classes], mean 1."""
    counts = np.array([sum(int((scene.labels == value).sum()) for scene in scenes) for value in range(len(CLASSES))])
    weights = (counts / counts.sum()) ** -0.25
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def loss_of(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross entropy plus the shortfall of soft overlap; scores [B, C, H, W], labels [B, H, W]."""
    entropy = functional.cross_entropy(scores, labels, weights, ignore_index=NO_LABEL)
    known = (labels != NO_LABEL).unsqueeze(1)
    share = scores.softmax(dim=1) * known
    truth = functional.one_hot(labels.clamp(max=scores.shape[1] - 1), scores.shape[1]).permute(0, 3, 1, 2) * known
    overlap = 2 * (share * truth).sum(dim=(0, 2, 3)) + 1
    return entropy + 0.5 * (1 - overlap / ((share + truth).sum(dim=(0, 2, 3)) + 1)).mean()


def train(model: nn.Module, scenes: list[Landscape], steps: int, seed: int) -> None:
    """Fit the network in place: AdamW, one cycle of the learning rate, bfloat16 where it is safe."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.15)
    weights = class_weights(scenes)
    started = time.perf_counter()
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for step, (x, labels) in enumerate(batches(scenes, np.random.default_rng(seed), steps), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(x.to(memory_format=torch.channels_last))
        loss = loss_of(scores.float(), labels, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step}/{steps} loss {loss.item():.3f} {time.perf_counter() - started:.0f} s", flush=True)
    model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@torch.inference_mode()
def predict(model: nn.Module, scene: Landscape) -> NDArray[np.uint8]:
    """Class of every pixel uint8 [H, W], from one pass over the whole scene in float32."""
    x = normalise(fill_unseen(scene.rgb, scene.valid))[None]
    classes = model(x.to(memory_format=torch.channels_last))[0].argmax(dim=0)
    return np.asarray(classes.to(torch.uint8).numpy())


def judge(predicted: NDArray[np.uint8], scene: Landscape) -> Quality:
    """Intersection over union of every class, and accuracy, over the pixels that were seen."""
    truth, guess = scene.labels[scene.valid], predicted[scene.valid]
    iou = []
    for value in range(len(CLASSES)):
        either = ((truth == value) | (guess == value)).sum()
        iou.append(float(((truth == value) & (guess == value)).sum() / max(either, 1)))
    return Quality(tuple(iou), float((truth == guess).mean()))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict as float32 safetensors, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(save({name: value.contiguous() for name, value in model.state_dict().items()}))
    os.replace(part, path)


def main() -> None:
    """Generate, train, judge, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    scenes = [generate(seed, TRAINING_SIZE) for seed in TRAINING_SEEDS]
    model = build("unet", HYPERPARAMETERS)
    train(model, scenes, arguments.steps, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = arguments.out / "model.safetensors"
    save_weights(model, weights)
    halo = measure_halo(model, period=2 ** HYPERPARAMETERS["depth"])
    write_card(arguments.out / "model.yaml", weights, halo)
    scene = generate(EVALUATION_SEED, EVALUATION_SIZE)
    quality = judge(predict(model, scene), scene)
    for (name, _), iou in zip(CLASSES, quality.iou, strict=True):
        print(f"{name:10} IoU {iou:.3f}")
    print(f"mean IoU {quality.mean_iou:.3f}, accuracy {quality.accuracy:.3f}, halo {halo} px, seed {EVALUATION_SEED}")


if __name__ == "__main__":
    main()
