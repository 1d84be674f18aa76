"""Spaces of networks for images."""
