"""Campaigns: attacks on featurepipe by the hundred and the thousand, each of which says what it tried and what escaped.

``python -m tests.campaigns --list`` names them, ``python -m tests.campaigns kills --count 500 --seed 7`` runs one.
A campaign is a module with

- ``ABOUT``, a line; ``CI`` and ``COUNT``, how many trials the tests and a long run make;
- ``prepare(folder)``, what all trials share, made once; it must be picklable;
- ``attempt(bench, trial)``, one trial: it returns if what is promised held, and raises `results.Escaped` if not;
- ``INSIDE``, whether trials run in one child process by the batch (``BATCH`` of them), or each starts its own;
- ``conclude(bench)``, if there is one: what can only be said when all trials are over.

A trial draws from its own generator, seeded by campaign, seed and number, so that ``--seed S --only N`` is that very
trial again. These modules import each other relatively: pytest knows them as ``campaigns``, a terminal as
``tests.campaigns``.
"""

NAMES = (
    "kills",
    "faults",
    "corruption",
    "writers",
    "images",
    "names",
    "fuzz",
    "trust",
    "load",
    "soak",
)
