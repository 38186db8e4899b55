"""Weight codes: how a signed weight becomes the conductances of its devices, and how it is got back.

`WeightCode` is the interface: differential pairs, offset weights with a unit column, both in bit slices, weights with a shared
reference column, or one from another package. The code is chosen by ``weights.representation`` of the target; the section says
how many device columns there are, the code what they hold. `cimc.ir.encoding` makes a layer's conductances with it.
"""
