"""Layers that are the same maths in several families."""
