"""The rating room: pages on which people teach, and the same over HTTP for programs. A leaf: only the command line starts it."""
