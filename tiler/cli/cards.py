"""What the registry says of its models, as tables for people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from tiler.cli.common import console

_STATE_COLORS = {"ready": "green", "probed": "green", "verified": "cyan", "failed": "red", "retired": "dim"}


def print_list(found: list[dict[str, Any]]) -> None:
    """Print what `model_registry.card.summary` gave of several versions."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("Model", "Aliases", "State", "Classes", "GSD", "Exactness", "Licence"):
        table.add_column(title, justify="right" if title in ("Classes", "GSD") else "left")
    for one in found:
        table.add_row(
            escape(one["ref"]),
            escape(", ".join(one["aliases"])),
            _state(one),
            str(one["classes"] or "-"),
            "-" if one["gsd"] is None else f"{one['gsd']:g} m" if isinstance(one["gsd"], int | float) else "?",
            escape(str(one["exactness"] or "-")),
            escape(str(one["license"] or "-")),
        )
    console.print(table)
    for one in found:
        if one["state"] == "failed" and one["reason"]:
            console.print(escape(f"{one['ref']}: {one['reason']}"), highlight=False, soft_wrap=True)


def _state(one: dict[str, Any]) -> str:
    return f"[{_STATE_COLORS.get(one['state'], 'default')}]{one['state']}[/]"


def print_card(found: dict[str, Any]) -> None:
    """Print what `model_registry.card.card` gave of one version."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for title, value in _rows(found):
        if value:
            table.add_row(title, value)
    console.print(table)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    measured = found["measured"] or {}
    files = (f"{one['href']}  {one['format']}, {one['size']} bytes" for one in found["artifacts"])
    provenance = (f"{key}: {_text(value)}" for key, value in found["provenance"].items())
    output = (f"{key} {_text(value)}" for key, value in found["output"].items() if value is not None)
    return [
        ("Model", escape(f"{found['ref']}  {found['title']}")),
        ("Aliases", escape(", ".join(found["aliases"]))),
        ("State", _state(found) + escape(f"  {found['reason']}" if found["reason"] else "")),
        ("Description", escape(found["description"])),
        ("Licence", escape(found["license"] or "not stated")),
        ("Attribution", escape(found["attribution"] or "")),
        ("Provenance", escape("\n".join(provenance))),
        ("Bands", escape(_bands(found))),
        ("Members", escape("\n".join(_member(one) for one in found["members"]))),
        ("Resolution", "" if found["members"] else escape(_resolution(found["resolution"]))),
        ("Classes", "\n".join(_class(item) for item in found["classes"])),
        ("Output", escape(", ".join(output))),
        ("Exactness", escape(_exactness(found, measured))),
        ("Drift", escape("\n".join(_drift(one) for one in _dicts(measured.get("drift")) if not one.get("reference")))),
        ("Speed", escape("\n".join(_speed(one) for one in _dicts(measured.get("speed"))))),
        ("Findings", escape("\n".join(_text(one) for one in _dicts(measured.get("findings"))))),
        ("Files", escape("\n".join(files))),
        ("Digest", found["digest"]),
    ]


def _bands(found: dict[str, Any]) -> str:
    return f"{', '.join(found['bands'])} ({found['input']['values']}, {'/'.join(found['input']['dtypes'])})"


def _resolution(where: dict[str, Any] | None) -> str:
    if where is None:
        return "any"
    other = "other scenes are resampled" if where["policy"] == "resample" else "other scenes are refused"
    return f"{where['value']:g} m, give or take {100 * where['tolerance']:g} %; {other}"


def _member(one: dict[str, Any]) -> str:
    return f"{one['model'] or 'this model'} at {one['gsd']:g} m, {100 * one['weight']:.3g} % of the mean"


def _class(item: dict[str, Any]) -> str:
    # The last two digits are the opacity; terminals have none, and only what is not opaque needs it said.
    color = item["color"].removesuffix("ff") if len(item["color"]) == 9 else item["color"]
    return f"[{item['color'][:7]}]\u2588\u2588[/] {item['value']} {escape(item['name'])} {color}"


def _exactness(found: dict[str, Any], measured: dict[str, Any]) -> str:
    if found["exactness"] is None:
        return "not measured: tiler models check"
    said = {**found["window"], **{key: measured[key] for key in ("halo", "period", "multiple") if key in measured}}
    numbers = [f"{key} {said[key]} px" for key in ("halo", "period", "multiple") if said[key] is not None]
    return ", ".join([found["exactness"], *numbers])


def _drift(one: dict[str, Any]) -> str:
    moved, why_not = one.get("moved"), one.get("why_not")
    share = f"{100 * moved:.3g} % of the pixels change" if isinstance(moved, int | float) else "cannot be used"
    return f"{one.get('runtime')} {one.get('precision')}: {share}{f' ({why_not})' if why_not else ''}"


def _speed(one: dict[str, Any]) -> str:
    speed = one.get("mpx_per_s")
    return f"{one.get('runtime')} {one.get('precision')}: " + (
        f"{speed:.3g} million pixels a second" if isinstance(speed, int | float) else "not measured"
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
