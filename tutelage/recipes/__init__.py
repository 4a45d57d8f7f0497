"""Named configurations that reproduce a result, and the rows that they append to benchmarks/results/."""
