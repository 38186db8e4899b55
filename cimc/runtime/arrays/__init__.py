"""The devices that hold a layer on a chip.

`LayerArrays` has them in all copies: fabricated and programmed from the weights, aged, compensated for drift, and, where the
target has wires, with the conductances that a read sees. It knows nothing of reads; `cimc.runtime.crossbar` computes products
with it. A second set of devices for the same layer is another `LayerArrays`, of a layer with another name.
"""
