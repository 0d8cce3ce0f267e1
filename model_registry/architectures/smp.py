"""Networks of segmentation_models_pytorch (extra `smp`), by class and encoder from an allow-list, never from a hub.

Two traps of the library are closed here: a model's own config names `encoder_weights: imagenet`, which would be
downloaded before the real weights are loaded, so it is always None; and encoders named `tu-...` ask timm's hub, so they
are not on the list. `smp.Unet` and the like stand in model.yaml's `architecture`, the constructor's arguments in
`hyperparameters`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

PREFIX = "smp."
CLASSES = frozenset(
    {
        "Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Linknet", "MAnet", "PAN", "UPerNet",
        "Segformer",
    }
)  # fmt: skip
# Version 0.6 of the library has these; `tu-` (any model of timm, from its hub) and DPT, which needs one, are left out.
ENCODERS = frozenset(
    [
        *(f"resnet{n}" for n in (18, 34, 50, 101, 152)),
        *(f"resnext{n}" for n in ("50_32x4d", "101_32x4d", "101_32x8d", "101_32x16d", "101_32x32d", "101_32x48d")),
        *(f"dpn{n}" for n in (68, "68b", 92, 98, 107, 131)),
        *(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "_bn")),
        "senet154", "se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d",
        *(f"densenet{n}" for n in (121, 161, 169, 201)),
        "inceptionresnetv2", "inceptionv4", "xception", "mobilenet_v2",
        *(f"efficientnet-b{n}" for n in range(8)),
        *(f"timm-efficientnet-b{n}" for n in range(9)), "timm-efficientnet-l2",
        *(f"timm-tf_efficientnet_lite{n}" for n in range(5)),
        "timm-skresnet18", "timm-skresnet34", "timm-skresnext50_32x4d",
        *(f"mit_b{n}" for n in range(6)),
        *(f"mobileone_s{n}" for n in range(5)),
    ]
)  # fmt: skip
_OPTIONS = frozenset(
    {
        "encoder_name", "encoder_depth", "encoder_output_stride", "in_channels", "classes", "activation", "upsampling",
        "decoder_use_norm", "decoder_use_batchnorm", "decoder_channels", "decoder_attention_type",
        "decoder_interpolation", "decoder_pyramid_channels", "decoder_segmentation_channels", "decoder_merge_policy",
        "decoder_dropout", "decoder_atrous_rates", "decoder_aspp_separable", "decoder_aspp_dropout",
        "decoder_pab_channels", "psp_out_channels", "psp_use_batchnorm", "psp_dropout",
    }
)  # fmt: skip
# What a config may say and we do not do; each has the one value that changes nothing.
_IGNORED = frozenset({"encoder_weights"})
_ABSENT = frozenset({"aux_params"})
# A network that big does not fit in any memory; said before it is tried.
_LARGEST: Mapping[str, int] = {"in_channels": 1024, "classes": 1024}
_LARGEST_OTHER = 8192


def build(name: str, hyperparameters: Mapping[str, Any]) -> nn.Module:
    """A network of the library with random weights, in training mode: [B, in_channels, H, W] -> [B, classes, H, W].

    Raises:
        ValueError: a class, encoder, option or size that is not on the list, or the library is not usable here.
    """
    options = checked(name, hyperparameters)
    with _offline():
        library = import_smp()
        network: nn.Module = getattr(library, name.removeprefix(PREFIX))(**options, encoder_weights=None)
    return network


def checked(name: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments without those that are ignored; ValueError as in `build`."""
    if name.removeprefix(PREFIX) not in CLASSES:
        raise ValueError(f"{name!r} is not one of {', '.join(sorted(PREFIX + c for c in CLASSES))}")
    options = {key: value for key, value in hyperparameters.items() if key not in _IGNORED}
    for key in _ABSENT & set(options):
        if options.pop(key) is not None:
            raise ValueError(f"{key} adds a second answer to the network; save it without")
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(_OPTIONS))}")
    encoder = options.get("encoder_name")
    if encoder not in ENCODERS:
        raise ValueError(f"encoder_name {encoder!r} is not on the list of encoders that need no download")
    for key, value in options.items():
        _check_size(key, value)
    for key in ("in_channels", "classes"):
        if type(options.get(key)) is not int:
            raise ValueError(f"{key} must be a number")
    return options


def _check_size(key: str, value: Any) -> None:
    items = value if isinstance(value, list | tuple) else value.values() if isinstance(value, Mapping) else (value,)
    if len(items) > 16:
        raise ValueError(f"{key} has {len(items)} entries")
    for item in items:
        if item is not None and not isinstance(item, bool | int | float | str):
            raise ValueError(f"{key} is {str(value)[:80]}")
        limit = _LARGEST.get(key, _LARGEST_OTHER)
        if isinstance(item, int | float) and not -limit <= item <= limit:
            raise ValueError(f"{key} is {item}, larger than any network ({limit})")


def import_smp() -> Any:
    """Return the library; ValueError with what to install where it cannot be imported."""
    try:
        import segmentation_models_pytorch as library
    except ImportError:
        raise ValueError(
            "segmentation_models_pytorch is not installed; run: pip install titiler-inference[smp]"
        ) from None
    except RuntimeError as error:
        # torchvision made for another build of torch: "operator torchvision::nms does not exist".
        told = str(error).splitlines()[0][:120]
        raise ValueError(
            f"segmentation_models_pytorch cannot be imported ({told}); install matching torchvision"
        ) from None
    return library


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Nothing asks a hub while a network is built, whatever the library would like to."""
    kept = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants = getattr(sys.modules.get("huggingface_hub"), "constants", None)  # it reads the variable once, at import
    before = getattr(constants, "HF_HUB_OFFLINE", None)
    if constants is not None:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        if constants is not None:
            constants.HF_HUB_OFFLINE = before
        if kept is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = kept
