"""What the standalone application shares between requests: settings, scenes, labels, and one service."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from morecantile import tms as default_tms

from model_registry import LoadedModel, Model
from tiler.errors import UnknownNameError
from tiler.export.order import Order, SceneOrder
from tiler.export.session import Session
from tiler.exporting import ExportRequest
from tiler.imagery import Imagery
from tiler.jobs import Wish
from tiler.labels import Labels, labels_over
from tiler.reader import PredictingReader, Service, reader_of
from tiler.roster import parse_address
from tiler.scene import Scene, SceneRef, open_scene
from tiler.settings import SceneSettings, Settings
from tiler.tiles import open_reader
from tiler.turnover import Reloaded

WEB_MERCATOR = default_tms.get("WebMercatorQuad")


@dataclass
class State:
    """What the application shares between requests."""

    settings: Settings
    service: Service
    default_pair: tuple[str, str] | None = None
    imagery: dict[str, Imagery] = field(default_factory=dict)
    labels: dict[str, tuple[float, Labels]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the one reader class of all named pairs."""
        self.reader_class = reader_of(self.service)

    def scene(self, name: str) -> SceneRef:
        """A named scene; 404 with the known names otherwise."""
        known = self.settings.scenes
        if name not in known:
            raise UnknownNameError(f"there is no scene {name!r}", f"Known are: {', '.join(known)}")
        bands = known[name].bands
        return SceneRef(known[name].path, tuple(bands) if bands else None)

    def image(self, name: str) -> Imagery:
        """A named scene to look at."""
        if name not in self.imagery:
            scene, chosen = open_scene(self.scene(name)), self.settings.scenes[name]
            self.imagery[name] = Imagery(scene, chosen.display_bands, chosen.rescale)
        return self.imagery[name]

    def labels_of(self, name: str, imagery: Scene | None = None) -> Labels:
        """The labels of a named scene, which is opened unless given.

        Raises:
            UnknownNameError: it has none.
            SceneError: they cannot be used.
        """
        scene, chosen = self.scene(name), self.settings.scenes[name].labels
        if chosen is None:
            raise UnknownNameError(f"scene {name!r} has no labels", "Register them as scenes.NAME.labels")
        until, kept = self.labels.get(name, (0.0, None))
        if kept is None or time.monotonic() > until or not kept.scene.is_current:
            kept = labels_over(open_scene(chosen.path), chosen.ref(), imagery or open_scene(scene))
            self.labels[name] = time.monotonic() + self.settings.layer_ttl, kept
        return kept

    def labels_and_model(self, scene: str, model: str | None) -> tuple[Labels, Model]:
        """Labels by the scene's name, and the model in whose classes they are read, by its own; it is not loaded."""
        labels, models = self.labels_of(scene), self.service.catalog.models
        wanted = model or (self.default_pair[1] if self.default_pair else models.names[0])
        return labels, models.look_at(models.identify(parse_address(wanted).model))

    def warm(self, loaded: LoadedModel) -> None:
        """Put windows through a model before it answers, none larger than the operator allows."""
        self.service.engine.warm(loaded, self.settings.max_window_pixels)

    def reload(self) -> list[str]:
        """Let models that have changed take over, warmed; returns their names.

        Raises:
            MisfitError: one of them cannot be used; it was not replaced.
        """
        return self.service.catalog.reload(self.warm)

    def refresh(self) -> Reloaded:
        """As `reload`; tells of what failed instead of raising."""
        return self.service.catalog.refresh(self.warm)

    def add(self, scenes: Mapping[str, SceneSettings], models: Mapping[str, str]) -> None:
        """Serve more scenes and models than the settings named, from now on."""
        self.settings.scenes = {**self.settings.scenes, **scenes}
        for name, source in models.items():
            self.service.catalog.models.add(name, source)

    def wish_of(self, wanted: ExportRequest) -> Wish:
        """What an export over HTTP means here."""
        found = self.open(wanted.scene, wanted.model)
        chosen, outputs = self.settings.scenes[wanted.scene], wanted.output
        order = Order(
            scenes=(SceneOrder(chosen.path),),
            model=wanted.model,
            outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs),
            bbox=wanted.bbox,
            aoi=wanted.aoi,
            gsd=wanted.gsd,
            crs=wanted.crs,
            device=self.settings.device,
            max_window_pixels=self.settings.max_window_pixels,
            attribution=chosen.attribution or "",
        )
        name = f"{wanted.scene}-{parse_address(found.address).model.replace(':', '-').replace('@', '-')}"
        return Wish(name, title_of(self, wanted.scene, found), order, found.layer, wanted.vector or "")

    def session_of(self, wish: Wish) -> Session:
        """An export's session over the layers and the engine that serve maps."""
        return Session(wish.order, (wish.layer,), self.service.engine)

    def open(self, scene: str, model: str) -> PredictingReader:
        """A predicting reader of a named pair. `model` may be name@revision."""
        return open_reader(self.reader_class, self.scene(scene), {}, tms=WEB_MERCATOR, model=model)


def title_of(state: State, scene: str, reader: PredictingReader) -> str:
    """What people call a pair."""
    return f"{state.settings.scenes[scene].title or scene}: {reader.layer.model.title}"
