"""Frozen policies only: episodes, clips, comparisons over seeds. Nothing here learns, and nothing here knows what a run is."""
