"""What a user may ask of a whole run."""

from __future__ import annotations

from dataclasses import dataclass

from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.probes import ProtocolOptions


@dataclass(frozen=True)
class RunOptions(ProtocolOptions):
    """What a run makes of the embeddings, besides a probe, and where."""

    promote: str | None = option(
        None,
        "Also fine-tune: a depth as for `featurepipe.finetune`, or ``auto`` for what `featurepipe.advise` says, which "
        "may be to keep the probe. It gets ``tuned.safetensors`` and ``tuned.html`` next to the probe's; where nothing "
        "was tuned, or tuning did not pay, that file holds the probe.",
        Flag(
            ("--promote",),
            "Also fine-tune this part of the network: head, last-N, stageK+ or all. auto fine-tunes only if "
            "featurepipe advise recommends it.",
            metavar="DEPTH",
            parse="depth",
        ),
    )
    include_backbone: bool = option(False, "Store the backbone's weights in the model file.")
    device: str = option("auto", "``auto`` (cuda, else mps, else cpu) or a torch device.")
