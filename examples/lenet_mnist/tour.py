"""A LeNet from the ONNX file to a chip image and back: compile, train, export, evaluate on 20 dice, explain, and a page.

The network and the published figures are those of Wu et al. (arXiv 2305.14547). The last line is the path of the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

import cimc
from cimc.budget.result import Budget
from cimc.datasets import mnist
from cimc.pages.parts import Artefact, Section, Table
from cimc.pages.report import Report, read_artefact
from cimc.population.result import Population

sys.path.insert(0, str(Path(__file__).parent))
import demo
import train

SAMPLES = 128


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def told_dice(population: Population) -> None:
    (row,) = population.quantiles()
    median, low, high = (f"{100 * row[name]:.2f} %" for name in ("median", "min", "max"))
    reached = population.yield_at(0.95)
    print(
        f"Weights trained on one chip, written into {len(population.seeds)} others: median {median}, from {low} to {high}; "
        f"{100 * reached.share:.0f} % of dice reach 95 % ({100 * reached.low:.0f} to {100 * reached.high:.0f} %)."
    )


def told_budget(budget: Budget) -> None:
    causes = ", ".join(f"{part.cause} {100 * part.error_share:.0f} %" for part in budget.causes[:3])
    print(f"Error of the trained chip: {causes} of its power; {budget.total.images} test images.")


def tour(folder: Path, seed: int, epochs: int, dice: int) -> Path:
    """Make everything in ``folder``; returns the page."""
    data = mnist()
    x, y = data["x_test"][:, None].astype(np.float32) / np.float32(255), data["y_test"]

    told("1 of 6  compile the trained LeNet for bulk-rram and classify the test images with it")
    compiled = demo.measure(seed, save=folder / "lenet.cim")
    demo.show(compiled)

    told("2 of 6  train the LeNet on the chip")
    trained = train.run(seed, folder=folder, epochs=epochs)
    train.show(trained)

    told("3 of 6  export what the chip learnt as an image for another chip")
    image = cimc.export_image(cimc.load(folder / "trained.cim"), path=folder / "lenet.cimg")

    told(f"4 of 6  write the image into {dice} dice and classify the test images on each")
    population = cimc.evaluate(image, x, y, chips=dice, seed=seed + 100)
    population.save(folder / "dice.json")
    told_dice(population)

    told("5 of 6  explain what the trained chip loses, by layer and cause")
    budget = cimc.explain(cimc.Chip(cimc.load(folder / "trained.cim")), x, y, samples=SAMPLES)
    told_budget(budget)
    (folder / "explained.json").write_text(json.dumps(budget.to_dict()))

    told("6 of 6  write the page")
    rows = [*demo.rows(compiled), *train.rows(trained)]
    published = Section("Published figures", tables=[Table("The paper's figures beside ours", ("", "here", "paper"), rows)])
    facts = {"accuracy, compiled": compiled["accuracy"], "accuracy, trained on the chip": trained["accuracy"]}
    paper = Artefact("LeNet on bulk-rram", "comparison with arXiv 2305.14547", facts, [published])
    made = ("lenet.cim", "trained.cim", "training", "lenet.cimg", "dice.json", "explained.json")
    artefacts = [paper, *(read_artefact(folder / name, f"m{number}") for number, name in enumerate(made))]
    page = folder / "lenet.html"
    page.write_text(Report("LeNet: compiled, trained, exported", artefacts, []).page(), "utf-8")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the chip and of the order of the images")
    parser.add_argument("--epochs", type=int, default=train.EPOCHS)
    parser.add_argument("--dice", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="folder; what it holds is replaced")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    print(f"open in a browser: {tour(options.output, options.seed, options.epochs, options.dice).resolve()}")


if __name__ == "__main__":
    main()
