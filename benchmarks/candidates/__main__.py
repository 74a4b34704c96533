"""`python -m candidates CHANGE,CHANGE …`: the command line of clotseg with its code changed."""

import sys

from clotseg.cli import main
from clotseg.quiet import load_tensorflow

from . import apply

names = sys.argv.pop(1).split(",")
load_tensorflow()
apply(names)
main()
