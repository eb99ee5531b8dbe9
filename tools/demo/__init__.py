"""The demo: three networks learn to segment a real microscopy image, and the store keeps the record.

``python -m tools.demo`` runs it. It uses the stores as a trainer would, through their public
names alone, and shows afterwards what can be asked of the record.
"""
