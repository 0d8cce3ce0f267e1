"""What an operator can set, by environment (`TILER_...`) or in one YAML file named by `TILER_CONFIG`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from model_registry.threads import default_threads, share
from tiler.errors import InferenceError
from tiler.values import LabelRef

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
# First path segments, and last names below a scene, that the application uses itself.
RESERVED = frozenset(
    "imagery static api docs openapi.json redoc healthz cog tiles tilejson.json legend.json point statistics info "
    "info.geojson preview bbox feature wmts map models metrics exports labels errors accuracy areas".split()
)


def _name(value: str) -> str:
    if not NAME.fullmatch(value) or value in RESERVED:
        raise ValueError(
            f"{value!r} cannot be a name in a URL: use letters, digits, '_', '-' and '.', starting with a letter, and "
            f"none of {', '.join(sorted(RESERVED))}"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]


class LabelSettings(BaseModel):
    """Labels of one scene: what somebody has drawn as the truth."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Path or URL of the raster: one band of whole numbers")
    title: str | None = None
    classes: dict[int, int | str | list[int | str]] | None = Field(
        None,
        description="Label number -> the model's class (name or number), several of them, or * for all that no other "
        "label names; default: the model's own numbers",
    )
    ignore: list[int] = Field(default_factory=list, description="Label numbers that are not judged")

    @model_validator(mode="after")
    def _known(self) -> LabelSettings:
        self.ref()
        return self

    def ref(self) -> LabelRef:
        """The same, for those who open them."""
        return LabelRef.of(self.path, self.title, self.classes, self.ignore)


def _labels(given: Any) -> Any:
    return {"path": given} if isinstance(given, str) else given


def materialised_folder() -> Path:
    """Where exports of this user register themselves, by the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "titiler-inference" / "materialised"


class SceneSettings(BaseModel):
    """One scene that is served."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="Path or URL of the raster")
    title: str | None = None
    attribution: str | None = None
    bands: list[int] | None = Field(None, description="Bands (from 1) in the models' order, if names do not tell")
    display_bands: list[int] | None = Field(None, description="Bands shown as red, green, blue; default: by colour")
    rescale: tuple[float, float] | None = Field(None, description="Values shown as black and white; default: 2-98 %")
    labels: Annotated[LabelSettings | None, BeforeValidator(_labels)] = Field(
        None, description="Labels that predictions are judged by: their path, or path, title, classes and ignore"
    )


class Settings(BaseSettings):
    """Everything that can be set. Sizes are in bytes or pixels, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="TILER_", env_nested_delimiter="__", extra="forbid")

    scenes: dict[Name, SceneSettings] = Field(default_factory=dict, description="Scenes by name")
    models: dict[Name, str] = Field(
        default_factory=dict,
        description="Models by name: folder, ONNX file, or a reference into the registry (landcover@champion)",
    )
    gsds: dict[Name, list[float]] = Field(
        default_factory=dict,
        description="Models (files) served as an ensemble of themselves: metres per pixel, landcover -> [0.5, 1, 2]",
    )
    registry: str | None = Field(
        None, description="Registry whose models are served by name, name@alias or name:3: a folder or URL"
    )
    model_bytes: int | None = Field(
        4 * 2**30, ge=1, description="Bytes that loaded models may take; the least recently used is unloaded first"
    )
    max_models: int | None = Field(None, ge=1, description="Models loaded at the same time; default: any")
    watch_seconds: float | None = Field(
        None, gt=0, description="Seconds between two looks at the registry; default: never, reload explicitly"
    )
    admin_token: SecretStr | None = Field(
        None, description="What POST /models/reload wants as its bearer token; without one there is no such route"
    )
    exports: Path | None = Field(
        None, description="Folder for exports over HTTP (/exports); without one there is no such route"
    )
    export_token: SecretStr | None = Field(None, description="What asking for exports wants as its bearer token")
    max_export_pixels: int = Field(2**32, ge=4096, description="Pixels of one export over HTTP")
    keep_exports: int = Field(50, ge=1, description="Finished exports whose files stay")
    shadow: dict[str, str] = Field(
        default_factory=dict, description="Models that others are compared with: landcover -> landcover@canary"
    )
    shadow_share: float = Field(0.05, ge=0, le=1, description="Share of tiles that a shadow infers as well")
    default_scene: str | None = Field(None, description="Scene of /{z}/{x}/{y}.png; the first by default")
    default_model: str | None = Field(
        None, description="Model of /{z}/{x}/{y}.png; the first by default. May be a reference into the registry"
    )
    allowed_urls: list[str] = Field(
        default_factory=list, description="URL prefixes that url= may name; empty: no url= at all"
    )
    allow_private_addresses: bool = Field(False, description="Let url= reach loopback and private networks")
    device: str = Field("cpu", description="Where models run: cpu, cuda, or several: cuda:0,cuda:1")
    precision: Literal["fp32", "bf16", "fp16", "auto"] | None = Field(
        None, description="Arithmetic of the models; default: what each model says, else fp32"
    )
    runtime: Literal["auto", "onnxruntime", "openvino", "torch"] = Field("auto", description="What runs the models")
    threads: int | None = Field(None, ge=1, description="CPU threads of a forward pass; default: all cores")
    read_threads: int = Field(2, ge=1, description="Windows read at the same time")
    finish_threads: int = Field(
        default_factory=lambda: share(default_threads()).finishers,
        ge=1,
        description="Tiles painted and encoded at the same time; default: half of the cores, at most 8",
    )
    picture_bytes: int = Field(64 * 2**20, ge=0, description="Bytes of encoded tiles kept")
    read_ahead: int | None = Field(
        None, ge=0, description="Windows formed beyond those on the devices; default: as many as reading asks for"
    )
    batch: int | None = Field(
        None, ge=1, description="Windows of one shape put through a model together; default: 1 on a CPU, 8 on a GPU"
    )
    cache_bytes: int = Field(512 * 2**20, ge=0, description="Bytes of predictions kept")
    shared_cache_url: str | None = Field(None, description="Redis or Valkey that replicas share, redis://host:6379/0")
    max_pending_cells: int = Field(16384, ge=1, description="Cells in flight beyond which requests get 503")
    max_window_pixels: int = Field(1024 * 1024, ge=4096, description="Largest window put through a model, with halo")
    max_tile_pixels: int = Field(2048 * 2048, ge=4096, description="Model pixels under one tile; decides minzoom")
    max_request_pixels: int = Field(4096 * 4096, ge=4096, description="Model pixels under a bbox, feature or preview")
    max_side: int = Field(4096, ge=16, description="Pixels along each side of an answer")
    max_gsd_factor: float = Field(4.0, ge=1, description="How much coarser or finer than the model a scene may be")
    materialised: str = Field(
        default_factory=lambda: str(materialised_folder()),
        description="Folder in which exports register themselves, so that tiles come from them; empty: none do",
    )
    timeout: float = Field(40.0, gt=0, description="Seconds until a request is given up; QGIS gives up after 60")
    layer_ttl: float = Field(60.0, gt=0, description="Seconds until a scene's header is looked at again")
    frame_ancestors: list[str] = Field(
        default_factory=lambda: ["'self'"],
        description="Pages that may show the map in a frame (?embed=1): CSP sources such as https://example.org, or *",
    )
    cors_origins: list[str] = Field(default_factory=lambda: ["*"], description="Origins that may read answers")

    @model_validator(mode="after")
    def _defaults(self) -> Settings:
        for kind, wanted, known in (
            ("scene", self.default_scene, self.scenes),
            ("model", self.default_model, self.models),
        ):
            if kind == "model" and self.registry is not None:
                continue  # what it holds is known when it is opened
            if wanted is not None and wanted not in known:
                raise ValueError(f"default_{kind}={wanted!r} is not among the {kind}s: {', '.join(known) or 'none'}")
        return self

    @property
    def default_pair(self) -> tuple[str, str] | None:
        """(scene, model) of the short form; None when nothing is served by name, or the registry has to tell."""
        model = self.default_model or next(iter(self.models), None)
        if not self.scenes or model is None:
            return None
        return self.default_scene or next(iter(self.scenes)), model

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        file = os.environ.get("TILER_CONFIG")
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, _from_file(settings_cls, Path(file))) if file else sources


def _from_file(settings: type[BaseSettings], file: Path) -> PydanticBaseSettingsSource:
    # pydantic-settings takes a missing file for an empty one.
    if not file.is_file():
        raise InferenceError(f"TILER_CONFIG names {file.name!r}, which is not there", "Correct the path")
    try:
        return YamlConfigSettingsSource(settings, yaml_file=file)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise InferenceError(f"{file.name!r} is not a YAML mapping{place}", "Correct it") from error
