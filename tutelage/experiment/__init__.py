"""A run: its configuration, its loop, its checkpoints, its log and the report a person reads."""
