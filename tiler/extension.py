"""The one line inside TiTiler: `TilerFactory(extensions=[inferenceExtension(models={...})])`.

A sub-factory of the host's own type is built around a predicting reader, so tilejson, WMTS, map, point, statistics,
feature, bbox, preview and OpenAPI are TiTiler's own code. Only the tile endpoint is ours: it is async and knows ETags.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Literal

import attrs
from attrs import define
from attrs import field as attr_field
from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field
from rio_tiler.io import Reader
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from titiler.core.dependencies import DefaultDependency
from titiler.core.factory import BaseFactory, FactoryExtension, TilerFactory, img_endpoint_params
from titiler.core.resources.enums import ImageType

from model_registry import LoadedModel, Registry
from tiler.cards import Cards
from tiler.catalog import Catalog
from tiler.documents import running
from tiler.engine import Engine
from tiler.label_params import labels_by_request
from tiler.legend import answer_of, classes_of, kind_of, legend_of
from tiler.materialised import Materialised
from tiler.params import (
    RenderParams,
    StatsParams,
    ViewParams,
    checked_colormap,
    inference_params,
    no_process,
    offered_format,
)
from tiler.predict import Limits
from tiler.reader import Service, reader_of
from tiler.roster import number_of, parse_address
from tiler.routes import InferenceRoute, inline
from tiler.tiles import TileRequest, answer_tile, open_reader, render
from tiler.truth import add_surveys
from tiler.values import Output


class InferenceFactory:
    """What our sub-factories change in the host's factory type; mixed in before it by `sub_factory`.

    Attributes:
        service: models, engine and limits.
        tile_paths: where tiles are served below the router's prefix; without `{tileMatrixSetId}` it is WebMercatorQuad.
    """

    service: ClassVar[Service]
    tile_paths: ClassVar[tuple[str, ...]] = ("/tiles/{tileMatrixSetId}/{z}/{x}/{y}",)

    def url_for(self, request: Request, name: str, **path_params: Any) -> str:
        """As the host's, with the path parameters of our own prefix filled from the request."""
        own = {key: value for key, value in request.path_params.items() if f"{{{key}}}" in self.router.prefix}  # type: ignore[attr-defined]
        return str(super().url_for(request, name, **{**own, **path_params}))  # type: ignore[misc]

    def tile(self) -> None:
        """Register the tile endpoints; replaces TiTiler's synchronous one."""
        factory: Any = self
        endpoint = tile_endpoint(factory)
        for number, path in enumerate(self.tile_paths):
            base = f"{factory.operation_prefix}getTile{number or ''}"
            for suffix, ending in (
                ("WithFormatAndScale", "@{scale}x.{format}"),
                ("WithScale", "@{scale}x"),
                ("WithFormat", ".{format}"),
                ("", ""),
            ):
                factory.router.get(path + ending, operation_id=base + suffix, **img_endpoint_params)(endpoint)


def tile_endpoint(factory: Any) -> Callable[..., Any]:
    """The endpoint of a factory's tiles. Parameters that a path does not hold can be given as queries."""
    # morecantile makes a deep copy for every question; nobody changes it here.
    tms_of = functools.cache(factory.supported_tms.get)
    tms_ids: Any = Literal[tuple(factory.supported_tms.list())]
    reader_dependency, view_dependency, colormap_dependency, render_dependency = (
        Depends(inline(dependency))
        for dependency in (
            factory.reader_dependency,
            factory.dataset_dependency,
            factory.colormap_dependency,
            factory.render_dependency,
        )
    )

    async def tile(
        request: Request,
        z: Annotated[int, Path(description="Zoom")],
        x: Annotated[int, Path(description="Column")],
        y: Annotated[int, Path(description="Row")],
        tileMatrixSetId: Annotated[tms_ids, Field(description="A supported tile matrix set")] = "WebMercatorQuad",
        scale: Annotated[int, Field(ge=1, le=4, description="Pixels per tile pixel, as in @2x")] = 1,
        format: Annotated[ImageType, Field(description="Image format")] = ImageType.png,
        tilesize: Annotated[int | None, Query(gt=0, description="Tile size in pixels")] = None,
        src_path: Any = Depends(factory.path_dependency),
        reader_params: Any = reader_dependency,
        dataset_params: Any = view_dependency,
        colormap: Any = colormap_dependency,
        render_params: Any = render_dependency,
        env: Any = Depends(factory.environment_dependency),
    ) -> Response:
        """A map tile of the prediction."""
        tms = tms_of(tileMatrixSetId)
        return await answer_tile(
            request,
            factory.service,
            functools.partial(open_reader, factory.reader, src_path, env, tms=tms, **reader_params.as_dict()),
            TileRequest(z, x, y, tilesize, scale, format, colormap, dataset_params.as_dict(), render_params.as_dict()),
        )

    return tile


def _no_renders(_: Any) -> dict[str, dict[str, Any]]:
    return {}


def sub_factory(
    parent: TilerFactory, service: Service, mixin: type[InferenceFactory] = InferenceFactory, **changes: Any
) -> TilerFactory:
    """A factory of the parent's own type whose pixels are predictions.

    Args:
        parent: whose path, environment and colormap dependencies, tile matrix sets and templates are kept.
        service: models, engine and limits.
        mixin: what overrides the parent's type.
        changes: fields of the factory to set otherwise (router, router_prefix, name, reader_dependency...).
    """
    kind = type(f"Inference{type(parent).__name__}", (mixin, type(parent)), {"service": service})
    kept = {item.name: getattr(parent, item.name) for item in attrs.fields(type(parent)) if item.init}
    # Newer hosts describe ways to render the imagery; none of them is one of predictions.
    kept |= {name: _no_renders for name in ("get_renders",) if name in kept}
    factory: TilerFactory = kind(
        **{
            **kept,
            "reader": reader_of(service),
            "layer_dependency": DefaultDependency,
            "dataset_dependency": ViewParams,
            "tile_dependency": DefaultDependency,
            "process_dependency": no_process,
            "colormap_dependency": checked_colormap(parent.colormap_dependency),
            "render_dependency": RenderParams,
            "stats_dependency": StatsParams,
            "render_func": render,
            # The parent puts these on our routes too, once they are its own.
            "route_dependencies": [],
            "extensions": [],
            "enable_telemetry": False,
            **changes,
        }
    )
    return factory


@define(kw_only=True)
class inferenceExtension(FactoryExtension):
    """Predictions of models over whatever the host's factory reads.

    Attributes:
        models: by name: a folder with model.yaml, a bare ONNX with metadata, or a loaded model.
        prefix: where the endpoints go below the factory's own; must hold `{model}`.
        dependencies: FastAPI dependencies of the new routes, beside the host's own.
        extensions: TiTiler extensions to register on the predictions (e.g. `wmtsExtension()`).
        registry: a registry's folder or URL, or one that was opened: every name in it is served, as `name`,
            `name@alias` or `name:3`; `models` may then name references into it, such as `landcover@champion`.
        model_bytes: what loaded models may take together; see `Catalog`.
        catalog, engine: to share between several factories; made when not given.
        limits: what one request may cost.
        device, max_gsd_factor: see `Catalog`.
        materialised: folder in which exports register themselves, so that tiles come from them; none by default.
    """

    models: Mapping[str, str | FilePath | LoadedModel] = attr_field(factory=dict)
    prefix: str = "/inference/{model}"
    dependencies: Sequence[Any] = attr_field(factory=tuple)
    extensions: Sequence[FactoryExtension] = attr_field(factory=tuple)
    registry: Registry | str | FilePath | None = None
    model_bytes: int | None = None
    catalog: Catalog | None = None
    engine: Engine | None = None
    limits: Limits = attr_field(factory=Limits)
    device: str = "cpu"
    max_gsd_factor: float = 4.0
    materialised: Materialised | str | FilePath | None = None

    def register(self, factory: BaseFactory) -> None:
        """Add the endpoints to the host's router.

        Raises:
            TypeError: the factory has no reader of single rasters (mosaics are not supported yet).
        """
        if not isinstance(factory, TilerFactory) or not _reads_one_raster(factory.reader):
            raise TypeError(
                f"inferenceExtension works on a TilerFactory over single rasters, not yet on {type(factory).__name__}"
                f" with {getattr(getattr(factory, 'reader', None), '__name__', 'no reader')}"
            )
        if "{model}" not in self.prefix:
            raise ValueError(f"prefix={self.prefix!r} must hold {{model}}")
        # Kept, so that one extension on several factories loads its models once.
        self.catalog = self.catalog or Catalog(
            self.models,
            registry=self.registry,
            model_bytes=self.model_bytes,
            device=self.device,
            max_gsd_factor=self.max_gsd_factor,
        )
        self.engine = self.engine or Engine()
        catalog = self.catalog
        catalog.busy = lambda engine=self.engine: engine.busy  # type: ignore[misc]
        cards = Cards(catalog.models)
        if not isinstance(self.materialised, Materialised):
            self.materialised = Materialised(self.materialised)
        service = Service(
            catalog=catalog,
            engine=self.engine,
            limits=self.limits,
            reader=factory.reader,
            materialised=self.materialised,
        )
        # Flat routes with the parent's prefix and dependencies: an included router would break `route_dependencies`,
        # and without the parent's dependencies its auth would silently not cover ours.
        router = APIRouter(
            prefix=factory.router.prefix + self.prefix,
            dependencies=[*factory.router.dependencies, *self.dependencies, Depends(offered_format)],
            route_class=InferenceRoute,
        )
        name = f"{factory.operation_prefix}inference".strip(".")
        sub = sub_factory(
            factory,
            service,
            router=router,
            router_prefix=factory.router_prefix,
            name=name,
            reader_dependency=inference_params(
                factory.reader_dependency,
                # Of a registry, names come and go, and have aliases and versions.
                Annotated[
                    str if catalog.models.registry is not None else Literal[tuple(catalog.names)],
                    Path(description="Name of the model"),
                ],
            ),
            extensions=list(self.extensions),
        )
        add_legend(sub.router, catalog, f"{name}.getLegend")
        add_surveys(sub, labels_by_request(factory, service))
        factory.router.routes.extend(sub.router.routes)

        @factory.router.get(
            self.prefix.partition("{model}")[0].rstrip("/") or "/models",
            operation_id=f"{name}.listModels",
            dependencies=list(self.dependencies),
            response_class=JSONResponse,
        )
        def models() -> list[dict[str, Any]]:
            """The models that predictions can be asked of. Those of a registry are not loaded for it."""
            models = catalog.models
            own = [name for name in models.own if number_of(models.identify(name)) is None]
            told = [{**describe(catalog.model(name)), "id": name} for name in own]
            return told if models.registry is None else [*told, *(x for x in cards.everything() if x["id"] not in own)]


def _reads_one_raster(reader: Any) -> bool:
    return isinstance(reader, type) and issubclass(reader, Reader)


def add_legend(router: APIRouter, catalog: Catalog, operation_id: str) -> None:
    """Register `/legend.json` on a router whose prefix holds `{model}`."""

    @router.get("/legend.json", operation_id=operation_id, response_class=JSONResponse)
    def legend(
        model: Annotated[str, Path(description="Name of the model")],
        output: Output | None = None,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Classes with numbers, names and colours, or what the colours of values, or of output=spread, stand for."""
        return legend_of(catalog.model(parse_address(model).model), output)


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """What a user wants to know of a model before using it."""
    model = loaded.model
    return {
        "id": model.name,
        "title": model.title,
        "version": model.version,
        "bands": list(model.bands),
        "gsd": model.resolution.value if model.resolution else None,
        "halo": model.window.halo,
        "exactness": model.exactness,
        **running(loaded),
        "classes": classes_of(loaded),
        **kind_of(model),
        **answer_of(model),
        "license": model.license,
        "attribution": model.attribution,
    }
