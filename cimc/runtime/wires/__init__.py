"""IR drop: the currents of an array whose lines have resistance, as effective conductances.

For given devices an array with its wires is a linear network. With ideal sources at the driven ends of the word lines and
virtual grounds at the sensed ends of the bit lines, the current of bit line c is the sum over r of ``V[r] * T[r, c]``. The matrix
T does not depend on the voltages, so a read takes T (µS) in the place of the conductances.

`lines` describes a line, `exact` and `fast` compute T, `layer` applies them to the arrays of a layer.
"""
