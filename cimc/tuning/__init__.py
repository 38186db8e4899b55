"""Search for the settings with which a network keeps its accuracy on a chip."""
