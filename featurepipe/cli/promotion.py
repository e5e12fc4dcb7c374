"""Commands about promotion: is it worth it, and how deep."""

from __future__ import annotations

from typing import Any

import click

from featurepipe.cli.options import AS_JSON, HELD, SEED
from featurepipe.cli.promotion_texts import advise_text
from featurepipe.cli.terminal import Talk, show


@click.command()
@click.argument("store", type=click.Path())
@HELD
@SEED
@AS_JSON
def advise(store: str, as_json: bool, **options: Any) -> None:
    """Say from the cache alone whether to probe, to tune, how deep, or to label more.

    Nothing is embedded or tuned, and the split that probe reports is not looked at. Evidence gets better with all
    stages and raw pixels in the store: extract --layers stages, then probe.

    \b
      $ featurepipe extract data/digits -s digits.store --layers stages
      $ featurepipe probe digits.store --kind ridge
      $ featurepipe advise digits.store
      $ featurepipe advise digits.store --json
    """
    from featurepipe import stages

    show(as_json, stages.advise(store, listener=Talk(), **options), advise_text)
