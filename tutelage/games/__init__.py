"""Worlds: the interface (`spec`), trees of tensors (`nested`), adapters to simulators, and addresses (`make`)."""
