"""Import packages that not every installation has."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from denseface.core.errors import InputError
from denseface.core.signals import raise_if_interrupted


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
        If it is not installed; the message has the command that installs it. Or if it is installed and fails when it is
        imported, whatever the reason, which the message has.
    """
    package = package or module
    try:
        return importlib.import_module(module)
    except Exception as error:  # such as protobuf's VersionError, or the ImportError of a missing library
        raise_if_interrupted(error)
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise InputError(f"this needs the package {package}: pip install {package}") from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"the package {package} is installed, but cannot be imported: {reason}") from error


def packages_of(module: str) -> list[str]:
    """Return the installed packages that bring a module and are named after it; the last one overwrites the others."""
    return sorted(
        name
        for distribution in importlib.metadata.distributions()
        if (name := str(distribution.metadata["Name"]).lower()).startswith(module)
        and any(str(file) == f"{module}/__init__.py" for file in distribution.files or ())
    )
