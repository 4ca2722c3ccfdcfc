"""Import packages that not every installation has."""

from __future__ import annotations

import importlib
from types import ModuleType

from denseface.core.errors import InputError


def require(module: str, package: str | None = None) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        The module, as ``import`` takes it.
    package : str, optional
        The package that pip installs, where it has another name.

    Raises
    ------
    InputError
        If it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"this needs the package {package or module}: pip install {package or module}") from error
