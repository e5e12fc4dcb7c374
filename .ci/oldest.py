"""Print the oldest versions that setup.cfg allows, as a constraints file for pip.

The extras ``test`` (tools, of any age) and ``torchcodec`` (each version of it wants one version of torch) are left out.
"""

from configparser import ConfigParser
from pathlib import Path

config = ConfigParser()
config.read(Path(__file__).parents[1] / "setup.cfg")
extras = config["options.extras_require"]
bounds = (config["options"]["install_requires"], extras["handcrafted"], extras["parquet"])
print("".join(bounds).replace(">=", "==").strip())
