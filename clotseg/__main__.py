"""`python -m clotseg` is `clotseg`."""

from clotseg.cli import main

main()
