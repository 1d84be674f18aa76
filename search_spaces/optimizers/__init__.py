"""Spaces of optimizers and their schedules."""
