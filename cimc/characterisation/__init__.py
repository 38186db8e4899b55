"""From measurements of devices to the ``device`` section of a target."""
