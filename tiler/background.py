"""A server in a thread of this process: one, which whatever is wanted later joins. A notebook's."""

from __future__ import annotations

import atexit
import socket
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from tiler.naming import name_for
from tiler.settings import SceneSettings, Settings

# To finish what has begun, once it is told to end.
PATIENCE = 30.0  # seconds


class Background:
    """uvicorn in a thread, on a free port of this machine."""

    def __init__(self, scene: tuple[str, SceneSettings], model: tuple[str, str]) -> None:
        import uvicorn
        from rasterio.errors import NotGeoreferencedWarning

        from tiler.app import create_app

        # An encoded tile has no place of its own, which rasterio would tell in some cell of the notebook.
        warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=r"(tiler|rio_tiler)\b")
        app = create_app(Settings(scenes=dict([scene]), models=dict([model])))
        self.state = app.state.inference
        self.scenes, self.models = {_key(scene[1]): scene[0]}, {model[1]: model[0]}
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        # From here on a connection waits until the server runs.
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="tiler-notebook", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def add(self, scene: str, settings: SceneSettings, model: str) -> tuple[str, str]:
        """Names of a scene and a model, which are served from now on if they were not."""
        key = _key(settings)
        new_scene, new_model = key not in self.scenes, model not in self.models
        if new_scene:
            self.scenes[key] = name_for(scene, "scene", self.scenes.values())
        if new_model:
            self.models[model] = name_for(model, "model", self.models.values())
        names = self.scenes[key], self.models[model]
        self.state.add({names[0]: settings} if new_scene else {}, {names[1]: model} if new_model else {})
        return names

    def stop(self) -> None:
        """Finish what has begun, and end."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()


_lock = threading.Lock()
_running: Background | None = None


def stop() -> None:
    """End this process's server; its layers stay empty from now on. The next one starts another server."""
    global _running
    with _lock:
        running, _running = _running, None
    if running is not None:
        running.stop()


atexit.register(stop)


def running() -> bool:
    """Whether this process has a server."""
    return _running is not None and _running.alive


def serve(scene: str | Path, model: str | Path, bands: Sequence[int] | None = None) -> tuple[str, str, str]:
    """Serve a pair from this process.

    Args:
        scene: path or URL of a raster.
        model: folder with model.yaml, or an ONNX file.
        bands: of the scene, in the model's order, where names do not tell.

    Returns:
        address of the server, and the names under which it has the scene and the model.

    Raises:
        InferenceError: there was no server yet, and this pair cannot be its first. Of a later one its tiles tell.
    """
    global _running
    scene, model = _lasting(scene), _lasting(model)
    settings = SceneSettings(path=scene, bands=list(bands) if bands else None)
    with _lock:
        if _running is not None and _running.alive:
            return (_running.address, *_running.add(scene, settings, model))
        names = name_for(scene, "scene"), name_for(model, "model")
        _running = Background((names[0], settings), (names[1], model))
        return (_running.address, *names)


def _key(settings: SceneSettings) -> tuple[str, tuple[int, ...]]:
    return settings.path, tuple(settings.bands or ())


def _lasting(path: str | Path) -> str:
    """A path that means the same after the notebook has gone to another folder; a URL as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)
