import sys

from recsysml.cli import main

sys.exit(main())
