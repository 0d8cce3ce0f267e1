"""What a request may say, in TiTiler's words: the dependencies that replace the host factory's own."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy
from fastapi import Depends, HTTPException, Query
from rio_tiler.errors import RioTilerError
from starlette.requests import Request
from titiler.core.dependencies import DefaultDependency, StatisticsParams
from titiler.core.resources.enums import ImageType

from tiler.errors import RequestError
from tiler.paint import check_format, is_picture
from tiler.ramps import Color
from tiler.routes import NO_STORE, inline
from tiler.values import Output


@dataclass
class ViewParams(DefaultDependency):
    """How scores become pixels, in TiTiler's words."""

    resampling: Annotated[
        Literal["nearest", "bilinear"] | None,
        Query(description="How predictions are warped; bilinear warps probabilities. Defaults to `nearest`."),
    ] = None


@dataclass
class RenderParams(DefaultDependency):
    """Rendering options that make sense for predictions."""

    add_mask: Annotated[
        bool | None, Query(alias="return_mask", description="Make pixels without a class transparent. Default: true.")
    ] = None
    rescale: Annotated[
        list[str] | None,
        Query(
            description="Values shown in the first and the last colour, `min,max`, once or per band. "
            "Default: the model's own range. Not for classes."
        ),
    ] = None

    def as_dict(self, exclude_none: bool = True) -> dict[str, Any]:
        """Keyword arguments of `tiles.render`."""
        given = {} if self.rescale is None else {"rescale": tuple(_ends(text) for text in self.rescale)}
        return given if self.add_mask is None and exclude_none else {"add_mask": self.add_mask, **given}


@dataclass
class StatsParams(StatisticsParams):
    """TiTiler's statistics options; a percentile that is none is the client's mistake."""

    def __post_init__(self) -> None:
        """Check the percentiles."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        wrong = [value for value in self.percentiles or () if not 0 <= value <= 100]
        if wrong:
            raise RequestError(f"p={wrong[0]} is not a percentile", "Give whole numbers from 0 to 100")


def no_process() -> None:
    """Predictions are not put through TiTiler's algorithms: a hillshade of class numbers is rubbish."""


def inference_params(parent: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """The reader dependency: a model, the few queries of ours, and the host reader's own options.

    Args:
        parent: the host factory's reader dependency.
        model: annotation of the path parameter `model`, or the name of the one model there is.
    """
    fixed = model if isinstance(model, str) else None
    named: Any = model

    @dataclass(kw_only=True)
    class StyleParams(DefaultDependency):
        """What is wanted of the model."""

        request: Request = None  # type: ignore[assignment]  # TiTiler's WMTS calls with queries alone
        output: Annotated[
            Output | None,
            Query(
                description="Of classes: their numbers (default), probabilities, confidence, or class_confidence (both "
                "as numbers: red is the class, green the confidence 0..254, 255 unknown, blue 255 where there is any); "
                "of an ensemble also spread. Of a regression: its value. Of an embedding: rgb (default of pictures) or "
                "value (of numbers)"
            ),
        ] = None
        class_names: Annotated[
            str | None,
            Query(alias="class", description="Classes to show (names or numbers, comma-separated); default all"),
        ] = None
        threshold: Annotated[
            float | None, Query(ge=0, le=1, description="Mask pixels whose best probability is lower")
        ] = None
        indexes: Annotated[
            list[int] | None, Query(alias="bidx", description="Bands of the scene in the model's order")
        ] = None
        nodata: Annotated[
            Literal["nan"] | int | float | None, Query(description="Overwrite the scene's nodata value")
        ] = None
        reader_options: Any = Depends(inline(parent) if parent is DefaultDependency else parent)
        model: str = field(init=False, default=fixed or "")

        def as_dict(self, exclude_none: bool = True) -> dict[str, Any]:
            """Keyword arguments of the predicting reader."""
            given = {name: value for name, value in vars(self).items() if value is not None or not exclude_none}
            given["numbers"] = wants_numbers(given.pop("request", None))
            given |= {"model": self.model, "reader_options": self.reader_options.as_dict()}
            if self.nodata is not None:
                given["nodata"] = numpy.nan if self.nodata == "nan" else float(self.nodata)
            return given

    if fixed is not None:
        return StyleParams

    # A function, and no class that demands a model: TiTiler's WMTS calls whatever has queries with those alone.
    def params_of_model(model: named, params: Annotated[Any, Depends(inline(StyleParams))]) -> Any:
        params.model = model
        return params

    return params_of_model


def wants_numbers(request: Request | None) -> bool:
    """Whether a request's answer holds numbers: of a point, of statistics, described by info, or as tif or npy."""
    if request is None:
        return False
    path = request.url.path
    if "/point/" in path or path.endswith(("/statistics", "/info", "/info.geojson")):
        return True
    wanted = request.path_params.get("format") or request.query_params.get("format") or "png"
    return not is_picture(str(getattr(wanted, "value", wanted)))


def checked_colormap(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """A colormap dependency that answers 400 to whatever the host's own cannot parse."""

    @functools.wraps(dependency)
    def parse(*args: Any, **kwargs: Any) -> Any:
        try:
            colormap = dependency(*args, **kwargs)
            # Only what paints now is right: a colour that cannot be painted would be a 500 at the first tile.
            if isinstance(colormap, Mapping):
                return {int(key): _color(color) for key, color in colormap.items() if 0 <= int(key) <= 255}
            if colormap is not None:
                return [((float(low), float(high)), _color(color)) for (low, high), color in colormap]
            return None
        except HTTPException as error:
            # TiTiler's own answer to broken JSON; whatever else a host refuses stays the host's word.
            if not isinstance(error.__cause__, ValueError):
                raise
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, RioTilerError):
            pass
        raise HTTPException(
            400,
            'The colormap cannot be parsed. Give JSON such as {"0": "#ff0000", "1": [0, 255, 0, 255]}.',
            headers={"Cache-Control": NO_STORE},
        )

    return parse


def _ends(text: str) -> tuple[float, float]:
    """The two numbers of a rescale.

    Raises:
        RequestError: it is something else.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not (numpy.isfinite([low, high]).all() and low != high):
        raise RequestError(f"rescale={text[:40]!r} is not a range", "Write two numbers, e.g. rescale=0,40")
    return low, high


def _color(parts: Sequence[Any]) -> Color:
    """Red, green, blue and alpha of 0..255; ValueError otherwise."""
    red, green, blue, alpha = (int(part) for part in parts)
    if not all(0 <= part <= 255 for part in (red, green, blue, alpha)):
        raise ValueError(f"{parts} is not a colour")
    return red, green, blue, alpha


async def offered_format(request: Request) -> None:
    """A dependency that refuses a format before anything is inferred for it. FastAPI refuses those it does not know."""
    wanted = request.path_params.get("format")
    if wanted in {item.value for item in ImageType}:
        check_format(wanted)
