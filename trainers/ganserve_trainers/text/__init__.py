"""Sentence encoders: captions → vectors, for families that make pictures of text."""
