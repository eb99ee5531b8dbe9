"""The real DaCapo with these stores and with its own, side by side.

Runs in the environment of ``make upstream``. ``experiment`` is a small training as people write them;
``process`` runs parts of it in processes of their own; ``kills`` kills it and goes on, again and again.
"""
