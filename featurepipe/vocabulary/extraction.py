"""What a user may ask of reading images and embedding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import MEDIA, SWITCH

TABLE, COMPUTE, MEDIUM = "Table", "Compute", "Medium"  # panels


@dataclass(frozen=True)
class ColumnOptions:
    """Where a table has its files and labels."""

    path_column: str | None = option(
        None,
        "The table's column of files, if it is not called ``path``.",
        Flag(("--path-column",), "Column that names the files.  [default: path]", TABLE, metavar="NAME"),
    )
    label_column: str | None = option(
        None,
        "The table's column of labels, if it is not called ``label``.",
        Flag(("--label-column",), "Column that holds the labels.  [default: label]", TABLE, metavar="NAME"),
    )
    text_column: str | None = option(
        None,
        "The table's column of texts, which are then the samples; by default ``text``, in a table without files.",
        Flag(
            ("--text-column",),
            "Column that holds texts. Each text is then a sample.  [default: text, if there are no paths]",
            TABLE,
            metavar="NAME",
        ),
    )
    medium: str | None = option(
        None,
        "What the samples are; by default what the suffixes of the files say. Named, it also takes the sound tracks of "
        "videos, and leaves out files of other media.",
        Flag(
            ("--medium",),
            "What the samples are. sound also takes the sound tracks of videos, and video takes gif.  [default: what "
            "the files' suffixes say]",
            MEDIUM,
            choices=MEDIA,
        ),
        shape="str, optional",
    )
    clip_seconds: float | None = option(
        None,
        "Make a sample of each clip of this many seconds, instead of one of each file. Clips of one file have its "
        "label, and stay on one side of every split.",
        Flag(
            ("--clip-seconds",),
            "Cut each file into clips of this length; each clip is one sample.",
            MEDIUM,
            "number",
            least=0,
            above=True,
            metavar="S",
        ),
    )
    hop_seconds: float | None = option(
        None,
        "Seconds from the start of one clip to that of the next; by default clips follow each other without a gap.",
        Flag(
            ("--hop-seconds",),
            "Seconds from the start of one clip to that of the next.  [default: as --clip-seconds]",
            MEDIUM,
            "number",
            least=0,
            above=True,
            metavar="S",
        ),
    )


@dataclass(frozen=True)
class TableOptions(ColumnOptions):
    """Where a table has its files and labels, and where the groups come from."""

    group_column: str | None = option(
        None,
        "The table's column of groups, by default ``group``. No split, fold or validation set divides one.",
        Flag(
            ("--group", "group_column"),
            "Column that names a group, such as a patient or a video. All images of a group go into the same split.  "
            "[default: group]",
            metavar="NAME",
        ),
    )
    group_from: str | None = option(
        None,
        "A regular expression that takes the group from each path; see `featurepipe.manifests.groups.group_of`.",
        Flag(
            ("--group-from",),
            "Take the group from each file's path, with a pattern such as (patient\\d+). The group is what the first "
            "parentheses match, or the whole match if there are none.",
            TABLE,
            metavar="REGEX",
        ),
    )


@dataclass(frozen=True)
class ComputeOptions:
    """How embeddings are computed."""

    workers: int | None = option(
        None,
        "Threads that read images; one per core by default.",
        Flag(
            ("-j", "--workers"),
            "Number of threads that read images.  [default: one per core]",
            COMPUTE,
            "integer",
            least=1,
        ),
    )
    batch_size: int | None = option(
        None,
        "Images per forward pass; chosen automatically by default.",
        Flag(
            ("--batch-size",),
            "Number of images per forward pass.  [default: chosen automatically]",
            COMPUTE,
            "integer",
            least=1,
        ),
    )
    compile: str = option(
        "auto",
        "Whether to compile the network; ``auto`` does so if that pays, in runs of minutes.",
        Flag(
            ("--compile",),
            "Whether to compile the network. auto compiles only in long runs.",
            COMPUTE,
            choices=SWITCH,
            shown=True,
        ),
    )


@dataclass(frozen=True)
class ExtractOptions(ComputeOptions):
    """How a data set is embedded into a store."""

    devices: Sequence[str] = option(
        (),
        "Devices to use, each in a process of its own, which takes more work whenever it is free; ``all`` is every GPU "
        "of this machine. With more than one, a script must guard its main part by "
        '``if __name__ == "__main__":``, as for every use of Python\'s multiprocessing.',
        Flag(
            ("--devices",),
            "Several devices to use at once, each in its own process, such as cuda:0,cuda:1. all means every GPU of "
            "this machine.",
            COMPUTE,
            metavar="D,D,…",
            parse="devices",
        ),
    )
    crew: str | None = option(
        None,
        "``ray`` embeds on all nodes of a Ray cluster, which must share the folders of the samples and the store. It "
        "may have an address, such as ``ray://head:10001``; without, it is what RAY_ADDRESS says, or this machine's "
        "cluster.",
        Flag(
            ("--crew",),
            "Who embeds: ray means all nodes of a Ray cluster. The images and the store must be in folders that all "
            "nodes share. ray://HOST:PORT connects to a cluster from outside.",
            COMPUTE,
            metavar="ray[://ADDRESS]",
        ),
    )
    gpus_per_actor: float | None = option(
        None,
        "GPUs of each actor of a crew, such as 0.5; 0 for none. By default 1, where there are any.",
        Flag(
            ("--gpus-per-actor",),
            "Number of GPUs for each network, with --crew ray. 0.5 puts two networks on each GPU, and 0 uses CPUs.  "
            "[default: 1, if the cluster has GPUs]",
            COMPUTE,
            "number",
            least=0,
            metavar="N",
        ),
    )
    rehash: bool = option(
        False,
        "Read every file again, even if its size, times and inode are what the store knows.",
        Flag(("--rehash",), "Read every file again, even if it looks unchanged.", COMPUTE),
    )
