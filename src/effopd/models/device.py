"""The device that computes: the one a user names, or a GPU where there is one."""

import torch

from effopd.errors import ConfigurationError


def choose_device(name: str | None) -> torch.device:
    """Check a device, or choose `cuda` before `cpu` if none is given.

    Raises:
        ConfigurationError: There is no such kind of device, or torch sees none of it here.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=chosen).device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        return device
    except (RuntimeError, AssertionError) as error:
        cuda = chosen.partition(":")[0] == "cuda"
        found = "and torch sees no such device here; use cpu" if cuda else "expected cpu or cuda"
        raise ConfigurationError(f"device: got {chosen!r}, {found}.") from error
