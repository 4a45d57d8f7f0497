"""The chapters, in reading order: deep, preference. A chapter may import earlier ones."""
