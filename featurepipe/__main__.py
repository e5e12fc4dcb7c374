"""``python -m featurepipe``: the command line."""

from featurepipe.cli import main

if __name__ == "__main__":  # processes that are started anew import this file under another name
    main()
