"""Read YAML that somebody else wrote: plain values only, and no more of them than the text shows.

`yaml.safe_load` builds no objects, but its aliases (`*name`) let a few hundred bytes stand for billions of values,
which then go off in whoever walks them. A model's manifest needs no aliases, so they are refused.
"""

from __future__ import annotations

from typing import Any

import yaml

from model_registry.errors import ManifestError


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name)", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


def read_yaml(data: bytes | str, name: str) -> Any:
    """Return what `data` says; `name` is the file's, for messages.

    Raises:
        ManifestError: not YAML, an alias, a tag that would build an object, or nested too deeply; with the line.
    """
    try:
        return yaml.load(data, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        if isinstance(error, yaml.composer.ComposerError) and "alias" in str(error.problem):
            raise ManifestError(f"{name} has an alias (*name){where}", "Write the value itself there") from None
        raise ManifestError(f"{name} is not valid YAML{where}", "Correct the file") from None
    except (RecursionError, UnicodeDecodeError, ValueError):
        raise ManifestError(f"{name} is not valid YAML", "Correct the file") from None
