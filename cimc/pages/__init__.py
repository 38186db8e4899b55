"""The report: one page of figures and tables about compiled models, images, training runs and results."""
