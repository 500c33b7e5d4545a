"""Which installation brings a package, and the one line that says so where the package is missing.

The tables of pyproject.toml are the same, by the names that packages are installed by; a test compares them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from effopd.errors import MissingPackageError

EXTRAS = {
    "": (
        "accelerate",
        "datasets",
        "huggingface_hub",
        "numpy",
        "pyarrow",
        "rich",
        "safetensors",
        "scipy",
        "tensorboard",
        "tokenizers",
        "torch",
        "transformers",
        "trl",
        "typing_extensions",
        "yaml",
    ),
    "report": ("matplotlib", "pandas", "plotly", "sklearn", "threadpoolctl"),
    "eval": ("lm_eval", "math_verify"),
    "ray": ("ray",),
    "vllm": ("vllm",),
    "deepspeed": ("deepspeed",),
    "verl": ("transfer_queue", "verl"),
}
"""Packages, as they are imported, by the extra of effopd that installs them; those of "" come with effopd itself."""


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Say in one line what to install if a package of `EXTRAS` is missing that the block imports.

    Args:
        what: What needs the package, for the message.

    Raises:
        MissingPackageError: Such a package is missing. Of any other module, the error stays as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        for extra, packages in EXTRAS.items():
            if error.name in packages:
                source = f"'effopd[{extra}]'" if extra else "effopd"
                raise MissingPackageError(
                    f"{what} needs {error.name}, which is not installed. Install it with: pip install {source}",
                    name=error.name,
                ) from error
        raise


def require(package: str, what: str) -> None:
    """Check that a package of `EXTRAS` is installed, before a long work begins that needs it at its end.

    Raises:
        MissingPackageError: It is not.
    """
    with needed_by(what):
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
