"""Pages from templates: everything is escaped, and nothing may be missing."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import jinja2


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of the report, and before them those of other folders."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def version() -> str:
    """Of this library, "" where it is not installed."""
    try:
        return installed("unlabel")
    except PackageNotFoundError:  # run from a source tree
        return ""


__all__ = ["environment", "version"]
