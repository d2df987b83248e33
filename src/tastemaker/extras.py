"""Optional packages: imported where they are used, with an error naming the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from tastemaker.errors import MissingExtraError

__all__ = ["require"]


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
