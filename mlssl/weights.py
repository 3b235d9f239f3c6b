"""Files of tensors, read without running any code that is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlssl.config import ConfigError


def read_weights(path: Path, what: str, *, missing: str, broken: str, key: str = "") -> Any:
    """What `torch.save` wrote to `path`, on the CPU.

    Raises ConfigError for a file that is not there, with the remedy `missing`, or that cannot be read as `what`,
    with the remedy `broken`; `key` names the setting that the path is from.
    """
    where = f"{key}: {path}" if key else f"{path}"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file; {missing}") from None
    except Exception as error:  # Unpickling what is no checkpoint may raise anything.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{where}: cannot be read as {what} ({why}); {broken}") from None
