"""How a request names labels where no settings do: as the host's rasters are named, and opened by the host's reader."""

import copy
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Query
from fastapi.params import Depends as DependsMark
from fastapi.params import Path as PathMark
from starlette.requests import Request

from tiler.errors import RequestError
from tiler.labels import Labels, labels_over
from tiler.reader import Service, scene_behind
from tiler.scene import Scene
from tiler.values import LabelRef

# Gives the labels of a request's scene; blocking.
OpenLabels = Callable[[Scene], Labels]


def labels_by_request(factory: Any, service: Service) -> Callable[..., Any]:
    """A dependency for hosts: labels are named as the host's rasters are, with `labels_` before each parameter.

    The host's own path dependency decides what may be opened, and its reader opens it.
    """

    named_alike = Depends(_renamed(factory.path_dependency))

    def named(
        source: Any = named_alike,
        classes: Annotated[
            str | None,
            Query(
                alias="labels_classes",
                description='JSON: what label numbers mean, {"1": "water", "0": "*"}; default: the same numbers',
            ),
        ] = None,
        ignore: Annotated[
            str | None, Query(alias="labels_ignore", description="Label numbers that are not judged, comma-separated")
        ] = None,
        env: Any = Depends(factory.environment_dependency),
    ) -> OpenLabels:
        ref = _parsed(classes, ignore)

        def find(imagery: Scene) -> Labels:
            return labels_over(scene_behind(service.reader, source, dict(env)), ref, imagery)

        return find

    return named


def _parsed(classes: str | None, ignore: str | None) -> LabelRef:
    """What a request says of labels.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        numbers = [int(part) for part in ignore.split(",")] if ignore else []
        meant = None
        if classes is not None:
            parsed = json.loads(classes)
            meant = {int(label): names for label, names in parsed.items()}
            flat = [name for names in meant.values() for name in (names if isinstance(names, list) else [names])]
            if not all(isinstance(name, (int, str)) for name in flat):
                raise ValueError("names and numbers only")
        return LabelRef.of("", None, meant, numbers)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        told = f": {error}" if isinstance(error, ValueError) and str(error).startswith("label ") else ""
        raise RequestError(
            f"labels_classes= or labels_ignore= cannot be read{told}",
            'Write labels_classes={"1": "water", "0": "*"} and labels_ignore=255',
        ) from None


def _renamed(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """A dependency whose queries have `labels_` before their names; what it takes from elsewhere stays."""
    signature = inspect.signature(dependency, eval_str=True)
    parameters, names = [], {}
    for name, parameter in signature.parameters.items():
        marked = [*getattr(parameter.annotation, "__metadata__", ()), parameter.default]
        if parameter.annotation is Request or any(isinstance(mark, (DependsMark, PathMark)) for mark in marked):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            names[name] = name
            continue
        names[f"labels_{name}"] = name
        annotation = parameter.annotation
        if hasattr(annotation, "__metadata__"):
            annotation = Annotated[(annotation.__origin__, *(_with_prefix(mark) for mark in annotation.__metadata__))]
        parameters.append(
            inspect.Parameter(
                f"labels_{name}",
                inspect.Parameter.KEYWORD_ONLY,
                default=_with_prefix(parameter.default),
                annotation=annotation,
            )
        )

    def call(**given: Any) -> Any:
        return dependency(**{names[name]: value for name, value in given.items()})

    async def call_async(**given: Any) -> Any:
        return await call(**given)

    # A synchronous one may look at the network: FastAPI gives it a thread, as it does for the host's own.
    made: Any = call_async if inspect.iscoroutinefunction(dependency) else call
    made.__signature__ = signature.replace(parameters=parameters)
    renamed: Callable[..., Any] = made
    return renamed


def _with_prefix(mark: Any) -> Any:
    """A FastAPI parameter under its new name; anything else as it is."""
    alias = getattr(mark, "alias", None)
    if not alias:
        return mark
    renamed = copy.copy(mark)
    for name in ("alias", "validation_alias", "serialization_alias"):
        setattr(renamed, name, f"labels_{alias}")
    return renamed
