"""Particle worlds: disks that are pushed about in the plane, any number of copies at once, on any device."""
