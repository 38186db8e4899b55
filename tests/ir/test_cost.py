"""Cost: the published LeNet figures to the digit, and the rules on anything else."""

from __future__ import annotations

from math import isclose
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc.errors import CimcError, FitError
from cimc.ir.cost import cost
from cimc.passes.map import Map
from cimc.passes.tile import Tile
from cimc.targets.description import Target
from cimc.targets.load import load_target
from tests.ir.crossbar_programs import BULK, DENSE, LENET, VGG8, Matrix, chain, conv, copy_counts, matrices, targets, through

LENET_PROGRAM = through(chain(BULK, LENET))
PACKED = through(chain(DENSE, LENET))


def _with(target: Target, **changes: dict[str, Any]) -> Target:
    data = target.model_dump()
    for section, fields in changes.items():
        data[section] |= fields
    return Target.model_validate(data)


def test_lenet_row_of_the_paper() -> None:
    """Wu et al., arXiv 2305.14547, 64x64 arrays: 6,440 devices, 272.6 kFLOP, 6 crossbars, 641 ops, 707 tile ops, 0.46 ms,
    0.42 ms pipelined, 1.9 uJ; 0.05 ms with eight copies of conv1 on 9 crossbars. Packed densely it takes three tiles, and conv1
    waits for the others on one of them."""
    found = cost(PACKED, {"conv1": 8}).to_dict()
    energy = found["energy_mj"].pop("analog")
    assert isclose(energy, 707 * 2.66e-6, rel_tol=1e-15)
    assert found["energy_mj"] == {"digital": None, "programming": None}
    assert found["latency_ms"] == {"sequential": 0.46152, "pipelined": 0.41472, "copies": 0.05184, "placed": 0.46152}
    keys = ("crossbars", "crossbars_with_copies", "tiles", "chips", "devices", "flops", "ops", "tile_ops")
    assert [found[key] for key in keys] == [6, 9, 3, 1, 6440, 272640, 641, 707]
    conv1 = found["layers"][0]
    assert isclose(conv1.pop("energy_mj"), 576 * 2.66e-6, rel_tol=1e-15)
    expected = {"name": "conv1", "rows": 25, "columns": 8, "crossbars": 1, "copies": 8, "ops": 576, "tile_ops": 576}
    assert {key: conv1[key] for key in expected} == expected
    assert conv1["latency_ms"] == 0.41472


def test_by_default_lenet_is_as_fast_as_its_slowest_layer_on_the_chips_four_tiles() -> None:
    found = cost(LENET_PROGRAM)
    assert (found.tiles, found.chips, found.latency_ms.placed, found.notes) == (4, 1, found.latency_ms.pipelined, ())
    assert "slow the chip 1.11 times" in cost(PACKED).notes[0]  # 641 firings for 576


def test_auto_finds_the_papers_copies_within_its_crossbars() -> None:
    found = cost(LENET_PROGRAM, "auto", crossbars=9)
    assert [layer.copies for layer in found.layers] == [8, 1, 1]
    assert (found.crossbars_with_copies, found.latency_ms.copies) == (9, 0.05184)


def test_auto_takes_half_as_many_crossbars_again_by_default() -> None:
    assert cost(LENET_PROGRAM, "auto") == cost(LENET_PROGRAM, "auto", crossbars=9)


def test_without_copies_their_figures_are_null() -> None:
    found = cost(LENET_PROGRAM)
    assert (found.crossbars_with_copies, found.latency_ms.copies) == (None, None)
    assert found.latency_ms.pipelined == 0.41472


def test_placed_copies_are_the_default() -> None:
    """Two copies along the diagonal of one tile halve the firings of that tile."""
    found = cost(through(chain(BULK, LENET[:1]), copies={"conv1": 2}))
    assert (found.layers[0].copies, found.crossbars_with_copies, found.tiles) == (2, 1, 1)
    assert found.latency_ms.copies == found.latency_ms.placed == 288 * 720 / 1e6


def test_copies_that_do_not_divide_the_positions_wait_for_the_last_one() -> None:
    """Ten positions on three copies: four firings."""
    found = cost(through(chain(BULK, [Matrix("a", 8, 8, positions=10)]), copies={"a": 3}))
    assert found.latency_ms.copies == found.latency_ms.placed == 4 * 720 / 1e6


def test_layers_on_different_tiles_overlap_when_placed() -> None:
    found = cost(through(chain(BULK, [Matrix("a", 64, 32, positions=10), Matrix("b", 64, 32, positions=7)])))
    assert (found.latency_ms.sequential, found.latency_ms.placed) == (17 * 720 / 1e6, 10 * 720 / 1e6)


def test_the_busiest_tile_need_not_be_a_layers_first() -> None:
    """The first slice of b fills a tile, its second shares one with a."""
    matrices = [Matrix("a", 40, 16, positions=3), Matrix("b", 65, 32, positions=5)]
    found = cost(through(chain(DENSE, matrices)))
    assert found.tiles == 2
    assert found.latency_ms.placed == 8 * 720 / 1e6
    assert cost(through(chain(BULK, matrices))).latency_ms.placed == 5 * 720 / 1e6


@pytest.mark.parametrize(("signed", "rule", "phases"), [(True, "two_phase", 2), (True, "offset", 1), (False, "two_phase", 1)])
def test_signed_inputs_in_two_phases_take_two_operations(signed: bool, rule: str, phases: int) -> None:
    target = _with(BULK, dac={"signed": rule})
    found = cost(through(chain(target, [Matrix("a", 130, 8, positions=5, signed=signed)])))
    assert (found.ops, found.tile_ops) == (5 * phases, 15 * phases)
    assert found.flops == 2 * 5 * 130 * 8


def test_steps_that_share_a_layer_add_up() -> None:
    program = chain(BULK, [Matrix("a", 8, 8, positions=3)])
    again = program.vmm_steps[0].model_copy(update={"name": "again", "input": "x1", "output": "x2", "positions": 4})
    found = cost(through(program.model_copy(update={"steps": (*program.steps, again)})))
    assert (found.ops, found.crossbars, found.devices, found.flops) == (7, 1, 128, 2 * 7 * 64)
    assert found.latency_ms.pipelined == 7 * 720 / 1e6


def test_packed_zeros_are_no_devices_and_no_flops() -> None:
    target = _with(BULK, timing={"programming_energy_nj": 2.0})
    found = cost(through(chain(target, [Matrix("a", 9, 1, 9, 10, groups=8, packing=4)])))
    assert (found.crossbars, found.devices, found.flops, found.tile_ops) == (2, 8 * 9 * 2, 2 * 10 * 8 * 9, 20)
    # Two blocks of 36 x 8: cells between the groups are written too, to the lowest conductance.
    assert found.energy_mj.programming == 2 * 36 * 8 * 2.0 / 1e6
    assert found.layers[0].utilisation == 144 / (2 * 64 * 64)


def test_unknown_positions_are_null_and_nothing_else_is() -> None:
    found = cost(through(chain(BULK, [Matrix("a", 8, 8, positions=None), Matrix("b", 8, 8, positions=3)]))).to_dict()
    assert [found[key] for key in ("flops", "ops", "tile_ops")] == [None, None, None]
    assert set(found["latency_ms"].values()) == {None}
    assert set(found["energy_mj"].values()) == {None}
    assert [layer["ops"] for layer in found["layers"]] == [None, 3]
    assert (found["crossbars"], found["devices"], found["tiles"]) == (2, 256, 1)


def test_figures_that_the_target_does_not_give_are_null() -> None:
    found = cost(through(chain(Target(name="ideal"), LENET))).to_dict()
    assert set(found["latency_ms"].values()) == {None}
    assert set(found["energy_mj"].values()) == {None}
    assert found["utilisation"] is None
    assert found["ops"] == 641


def test_before_place_there_are_no_tiles() -> None:
    found = cost(through(chain(BULK, LENET), [Tile, Map]))
    assert (found.tiles, found.chips, found.latency_ms.placed, found.crossbars) == (None, None, None, 6)


def test_utilisation_of_a_full_tile_is_one() -> None:
    found = cost(through(chain(DENSE, [Matrix("a", 64, 16), Matrix("b", 64, 16)])))
    assert (found.utilisation, found.layers[0].utilisation) == (1.0, 0.5)


@pytest.mark.parametrize("copies", [{"conv9": 2}, {"conv1": 0}, {"conv1": 1.5}, "some"])
def test_bad_copies_are_refused(copies: Any) -> None:
    with pytest.raises(CimcError):
        cost(LENET_PROGRAM, copies)


def test_a_budget_below_one_copy_is_refused() -> None:
    with pytest.raises(FitError, match="6 crossbars > budget of 5, 1 too many"):
        cost(LENET_PROGRAM, "auto", crossbars=5)


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_arrays_with_copies_are_what_placement_takes(target: Target, layers: tuple[Matrix, ...], data: st.DataObject) -> None:
    """Each layer alone: as many tiles as the cost model says arrays."""
    layer = layers[0]
    positions = layer.positions or 1
    copies = {layer.name: data.draw(st.integers(1, min(9, positions) if positions > 1 else 9))}
    found = cost(through(chain(target, [layer]), copies=copies), copies)
    assert found.crossbars_with_copies == found.tiles


@settings(deadline=None, max_examples=40)
@given(target=targets(), layers=matrices(), data=st.data())
def test_latencies_are_ordered(target: Target, layers: tuple[Matrix, ...], data: st.DataObject) -> None:
    """Copies never slow down; sharing tiles never speeds up; one after the other is slowest."""
    copies = data.draw(copy_counts(layers))
    latency = cost(through(chain(target, layers)), copies).latency_ms
    assert latency.copies is not None
    assert latency.pipelined is not None
    assert latency.placed is not None
    assert latency.sequential is not None
    assert latency.copies <= latency.pipelined <= latency.placed <= latency.sequential


@settings(deadline=None, max_examples=40)
@given(layers=matrices(), extra=st.integers(0, 30))
def test_auto_is_the_best_within_its_budget(layers: tuple[Matrix, ...], extra: int) -> None:
    """No cheaper choice is faster: the fewest arrays for a shorter pipeline exceed the budget."""
    program = through(chain(BULK, layers), [Tile, Map])
    budget = cost(program).crossbars + extra
    found = cost(program, "auto", crossbars=budget)
    assert found.crossbars_with_copies is not None
    assert found.crossbars_with_copies <= budget
    slowest = max(-(-(layer.ops or 0) // layer.copies) for layer in found.layers)
    if slowest > 1:
        faster = {layer.name: -(-(layer.ops or 0) // (slowest - 1)) for layer in found.layers}
        needed = cost(program, faster).crossbars_with_copies
        assert needed is not None
        assert needed > budget


# Table 2 of Wu et al., arXiv 2305.14547 --------------------------------------------------------------------------------


def _resnet18() -> tuple[Matrix, ...]:
    """3x3 stem of 64, four stages of two blocks, 1x1 projections where the shape changes, dense 10, on 3x32x32."""
    layers, channels, side = [conv("stem", 3, 64, 32)], 64, 32
    for stage, width in enumerate((64, 128, 256, 512)):
        side //= 2 if stage else 1
        for block in range(2):
            layers += [conv(f"{stage}{block}a", channels, width, side), conv(f"{stage}{block}b", width, width, side)]
            layers += [conv(f"{stage}{block}p", channels, width, side, 1)] if channels != width else []
            channels = width
    return (*layers, Matrix("fc", 512, 10))


@pytest.mark.parametrize(
    ("name", "network", "copied", "published", "physical"),
    [
        ("bulk-rram", LENET, {"conv1": 8}, (6.4e3, 273e3, 6, 9, 641, 707, 0.46, 0.42, 0.05, 0.0019), 9),
        ("bulk-rram-256", VGG8, {"c1": 4, "c2": 4}, (1.1e6, 77.8e6, 78, 85, 2690, 7713, 1.94, 0.74, 0.19, 0.023), 87),
        (
            "bulk-rram-256", _resnet18(), dict.fromkeys(("stem", "00a", "00b", "01a", "01b"), 4),
            (22.3e6, 1.1e9, 1480, 1554, 6801, 81922, 4.90, 0.75, 0.20, 0.24), 1558,
        ),
    ],
    ids=["LeNet", "VGG-8", "ResNet-18"],
)  # fmt: skip
def test_the_papers_table_of_costs(
    name: str, network: tuple[Matrix, ...], copied: dict[str, int], published: tuple[float, ...], physical: int
) -> None:
    """Counts to the digit, the rest as the paper rounds it. It lets two copies share an array that need the same bit lines;
    copies that fire at once need lines of their own: ``physical`` is counted by hand, c1 27 x 64 cells on 4 arrays for 1, c2
    252 x 64 and 36 x 64 on 8 for 2; of ResNet-18 the stem's two column tiles on 8 for 2, four layers of 6 on 24 for 6 each."""
    found = cost(through(chain(load_target(name), network)), copied)
    devices, flops, crossbars, with_copies, ops, tile_ops, latency, pipelined, copies, energy = published
    assert (found.crossbars, found.crossbars_with_copies_published, found.ops, found.tile_ops) == (
        crossbars, with_copies, ops, tile_ops,
    )  # fmt: skip
    assert found.crossbars_with_copies == physical
    assert found.devices == pytest.approx(devices, rel=0.05)
    assert found.flops == pytest.approx(flops, rel=0.05)
    assert found.latency_ms.sequential == pytest.approx(latency, abs=0.006)
    assert found.latency_ms.pipelined == found.latency_ms.placed == pytest.approx(pipelined, abs=0.014)
    assert found.latency_ms.copies == pytest.approx(copies, abs=0.016)  # 256 firings of 720 ns are 0.184 ms
    assert found.energy_mj.analog == pytest.approx(energy, rel=0.03)


def test_copies_of_a_two_phase_layer_share_positions_not_phases() -> None:
    """Three positions on two copies: the first copy has two of them, of two firings each."""
    program = through(chain(BULK, [Matrix("a", 8, 8, positions=3, signed=True)]), copies={"a": 2})
    found = cost(program)
    assert (found.ops, found.latency_ms.copies, found.latency_ms.placed) == (6, 4 * 720e-6, 4 * 720e-6)
    assert found.layers[0].latency_copies_ms == 4 * 720e-6
    assert found.layers[0].latency_ms == 6 * 720e-6
    assert cost(program, "auto", crossbars=1).layers[0].copies == 3  # three of 8 x 16 cells fit an array's 64 bit lines


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        ({"conv1": 577}, "577 copies of layer conv1, which has 576 positions an image: 1 would never fire"),
        ({"conv1": -1}, "-1 copies"),
        ({"conv1": True}, "whole"),
        ({"dense": 10**9}, r"1000000000 copies of layer dense are 30,720 GB of devices"),
    ],
)
def test_absurd_copies_are_refused_in_a_sentence(copies: Any, said: str) -> None:
    with pytest.raises(CimcError, match=said):
        LENET_PROGRAM.cost(copies)
    model = Path(__file__).parents[2] / "examples" / "lenet_mnist" / "lenet.onnx"
    with pytest.raises(CimcError, match=said.replace("dense", "fc")):
        cimc.compile(model, copies={"fc" if name == "dense" else name: n for name, n in copies.items()})
