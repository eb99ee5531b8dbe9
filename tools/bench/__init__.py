"""Benchmarks: these stores, the peers and the physical limits, side by side.

``python -m tools.bench`` runs them and prints what they measured; ``--out`` puts the figures into a
file, from which ``python -m tools.bench.report`` makes the page and the plots. ``catalogue`` lists the
benchmarks, each a function of one module; ``peers`` has one adapter class for each peer.

What is compared is compared in pairs: every contestant runs in a process of its own, in turns (A, B,
A, B, …), and a ratio is the median of the ratios of the turns. What a target names is
judged; what was measured beside it is shown.
"""
