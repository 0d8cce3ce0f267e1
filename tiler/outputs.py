"""What may be asked of a model: the outputs that its kind has, and which one is meant when nobody says."""

from __future__ import annotations

from model_registry import Model
from tiler.errors import RequestError
from tiler.layer import Layer
from tiler.values import Output, Style


def offered(model: Model) -> tuple[Output, ...]:
    """The outputs of a model, the default for pictures first."""
    if model.kind == "regression":
        return ("value",)
    if model.kind == "embedding":
        return ("rgb", "value")
    if model.emits == "labels":
        return ("class", "class_confidence")  # which says of the confidence that it is not known
    return ("class", "probability", "confidence", "class_confidence", *(("spread",) if model.members else ()))


def style_of(
    layer: Layer,
    output: Output | None = None,
    class_names: str | None = None,
    threshold: float | None = None,
    numbers: bool = False,
) -> Style:
    """The style that a request means.

    Args:
        layer: whose prediction.
        output: what was asked for; None takes the kind's default.
        class_names: comma-separated names or numbers of classes.
        threshold: see `Style`.
        numbers: whether the answer holds numbers and no colours: an embedding's default is its channels then.

    Raises:
        RequestError: something that the model does not have; the message lists what it has.
    """
    model = layer.model
    known = offered(model)
    if output is None:
        output = "value" if numbers and "value" in known else known[0]
    check_output(model, output)
    if output == "spread" and (class_names is not None or threshold is not None):
        wrong = "class" if class_names is not None else "threshold"
        raise RequestError(f"{wrong}= has no meaning for output=spread", "Leave it out")
    if model.kind != "classes" and (class_names is not None or threshold is not None):
        wrong = "class" if class_names is not None else "threshold"
        raise RequestError(
            f"{wrong}= is for classes, model {model.name!r} answers {_PLURAL[model.kind]}",
            f"Leave it out. {_use(known)}; rescale= chooses what the colours stand for",
        )
    return Style(output=output, classes=layer.class_values(class_names), threshold=threshold)


def check_output(model: Model, output: Output) -> None:
    """Refuse an output that a model does not have.

    Raises:
        RequestError: the message lists what it has.
    """
    known = offered(model)
    if output in known:
        return
    if output == "spread":
        raise RequestError(
            f"output=spread is how far an ensemble's members lie apart, and model {model.name!r} is none", _use(known)
        )
    what = "class numbers only" if model.emits == "labels" else _PLURAL[model.kind]
    raise RequestError(f"output={output} is not what model {model.name!r} answers ({what})", _use(known))


_PLURAL = {"classes": "classes", "regression": "values", "embedding": "vectors"}


def _use(known: tuple[Output, ...]) -> str:
    return f"Use output={' or '.join(known)}"
