"""Contracts of a chip's parts: what every implementation has to pass, one from another package too."""

from cimc.testing.backends import check_backend
from cimc.testing.devices import check_device, check_drift, check_programming, check_read_noise
from cimc.testing.programmers import check_programmer
from cimc.testing.rules import check_rule
from cimc.testing.weight_codes import check_weight_code

__all__ = [
    "check_backend",
    "check_device",
    "check_drift",
    "check_programmer",
    "check_programming",
    "check_read_noise",
    "check_rule",
    "check_weight_code",
]
