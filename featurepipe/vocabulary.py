"""Plain names that the command line offers and the rooms below use; imports nothing, so that --help is quick."""

BASELINES = ("none", "simple", "full")
