"""The peers: one adapter class each, behind one small interface (``peer.Peer``).

Where a peer offers something that a benchmark asks for, its class overrides the method; a peer whose
packages are missing is shown as "not installed". A class is what a contestant's process is told, so
importing these modules imports no peer.
"""
