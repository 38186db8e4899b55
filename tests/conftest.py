"""Slow models run when they are asked for: ``pytest -m slow``."""

from __future__ import annotations

import pytest

import cimc  # noqa: F401  before onnxruntime, whose reports it switches off


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("-m"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))
