"""Small worlds, exactly: planning with the arrays of a finite world, then learning the same numbers from experience alone."""
