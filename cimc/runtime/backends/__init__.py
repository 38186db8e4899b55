"""What computes the reads of a chip. A backend sees a `ReadSpec` and codes, nothing else of the chip.

``cpu`` is compiled; ``reference`` is plain NumPy, slow, and what the tests compare the others with. A package offers its own by
an entry point of the group ``cimc.backends``.
"""
