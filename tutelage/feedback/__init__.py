"""People and their judgements: what is asked, of whom, which pairs are worth asking, and where the answers are kept."""
