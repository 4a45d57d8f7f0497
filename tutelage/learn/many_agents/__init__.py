"""Many agents: who shares, who sees what while learning, and the learners that are told so."""
