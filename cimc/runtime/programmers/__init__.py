"""Programmers: how cells are brought to their goals.

`Programmer` is the interface: directly (`Direct`), by write-verify (`WriteVerify`), by a counted number of blind pulses
(`BlindPulses`), or by one from another package. A programmer changes devices through the device model alone, and returns a
`Report`. Whatever writes devices, goes through the programmer that the target chooses: a chip's first programming
(`cimc.runtime.programmers.whole`), training (`cimc.runtime.write`), and the dice of an image.
"""
