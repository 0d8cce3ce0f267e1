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
from tiler.paint import Color, check_format
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

        output: Annotated[Output, Query(description="Class numbers, probabilities per class, or confidence")] = "class"
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
