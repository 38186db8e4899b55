"""The figures of a compiled model, against what the program and its chip say themselves."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import cimc
from cimc.pages.arrays import ArrayView, Block, arrays_of, arrays_section, with_map
from cimc.pages.costs import cost_section
from cimc.pages.forecast import forecast_section
from cimc.pages.graph import MOST_NODES, graph_section, layered
from cimc.pages.held import conductance_maps
from cimc.pages.png import palette, png, pooled
from cimc.pages.program import program_artefact
from cimc.pages.schedule import schedule_section
from tests.cli.conftest import small_model


def compiled(target: str = "bulk-rram", **settings: object) -> cimc.Program:
    random = np.random.default_rng(1)
    x = {"input": random.normal(size=(4, 1, 6, 6)).astype(np.float32)}
    return cimc.compile(small_model(random), target, calibration=x, settings=settings or None)


@pytest.fixture(scope="module")
def program() -> cimc.Program:
    return compiled()


def test_the_schedule_ends_with_the_latency_layer_by_layer(program: cimc.Program) -> None:
    section = schedule_section(program)
    assert section is not None
    (bars,) = section.pictures[0].bars
    assert bars.starts is not None
    assert bars.starts[0] == 0
    assert bars.starts[-1] + bars.values[-1] == pytest.approx(program.cost().latency_ms.sequential)
    assert bars.starts[1:] == pytest.approx((bars.starts + bars.values)[:-1])


def test_bars_of_cost_add_up_to_the_whole(program: cimc.Program) -> None:
    energy, latency = cost_section(program).pictures
    cost = program.cost()
    assert energy.bars[0].values.sum() == pytest.approx(cost.energy_mj.analog)
    assert latency.bars[0].values.max() == pytest.approx(cost.latency_ms.pipelined)
    assert list(energy.names) == [layer.name for layer in cost.layers]


@pytest.mark.parametrize("target", ["bulk-rram", "isaac"])
def test_arrays_are_as_full_as_the_cost_says(target: str) -> None:
    program = compiled(target)
    views = arrays_of(program)
    cost = program.cost()
    assert len(views) == cost.tiles
    assert cost.utilisation is not None
    assert np.mean([view.utilisation for view in views]) == pytest.approx(cost.utilisation)


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("bulk-rram", {}),
        ("isaac", {}),
        ("bulk-rram", {"weights.representation": "shared_reference", "weights.bits": 4, "device.levels": 16}),
        ("ideal", {}),
    ],
)
def test_a_map_shows_each_device_where_its_weight_lies(target: str, settings: dict[str, object]) -> None:
    program = compiled(target, **settings)
    chip = cimc.Chip(program, seed=3)
    maps = conductance_maps(chip, arrays_of(program))
    seen = 0
    for layer in program.layers:
        held = chip.conductances(layer.name).transpose(0, 1, 3, 2)  # [groups, rows, columns, planes]
        cells = program.cells(layer.name)
        by_place = np.sort([maps[c["chip"], c["tile"]][c["row"], c["column"]] for c in cells])
        assert np.array_equal(by_place, np.sort(held.reshape(-1)))
        first = cells[(cells["copy"] == 0) & (cells["weight"] == 0)]  # the devices of one weight, in their order
        here = [maps[c["chip"], c["tile"]][c["row"], c["column"]] for c in first]
        assert np.array_equal(here, held[0, 0, 0])
        seen += len(cells)
    assert sum(int((~np.isnan(values)).sum()) for values in maps.values()) == seen


def test_every_node_has_its_place_and_reason_in_the_graph(program: cimc.Program) -> None:
    (drawing,) = graph_section(program).drawings
    (table,) = graph_section(program).tables
    assert [tuple(row) for row in table.rows] == [tuple(row.values()) for row in program.placement()]
    kinds = {box.about.partition(":")[0]: box.kind for box in drawing.boxes}
    assert kinds == {row["name"]: row["where"] for row in program.placement()}
    assert all(row["why"] in " ".join(box.about for box in drawing.boxes) for row in program.placement())
    assert len(drawing.links) == 3
    assert [kind for kind, _, _ in drawing.legend] == ["analog", "digital"]


def test_boxes_of_a_graph_do_not_overlap_and_no_link_crosses_one() -> None:
    random = np.random.default_rng(0)
    nodes = [
        (f"n{k}", "Add", "digital", "", [f"v{j}" for j in random.integers(max(0, k - 7), k, 2)] if k else ["x"], [f"v{k}"])
        for k in range(60)
    ]
    drawing = layered(nodes, "")
    for box in drawing.boxes:
        others = [one for one in drawing.boxes if one is not box and one.y == box.y]
        assert all(abs(one.x - box.x) >= box.width for one in others)
        assert 0 <= box.x <= box.x + box.width <= drawing.width
        assert box.y + box.height <= drawing.height
    for start, _, _, end in drawing.links:
        assert start[1] < end[1]
        lane = [box for box in drawing.boxes if box.y == start[1]]  # a line down a row passes between its boxes
        assert all(not box.x < start[0] < box.x + box.width for box in lane)


def test_each_link_of_a_graph_arrives() -> None:
    """Following links down from a node reaches exactly the nodes that read it."""
    reads = [[], [0], [1], [0, 2], [3, 1], [0, 4]]
    nodes = [(f"n{k}", "Add", "digital", "", [f"v{j}" for j in some], [f"v{k}"]) for k, some in enumerate(reads)]
    drawing = layered(nodes, "")
    top = {(box.x + box.width / 2, box.y): k for k, box in enumerate(drawing.boxes)}
    for k, box in enumerate(drawing.boxes):
        ends, found = [(box.x + box.width / 2, box.y + box.height)], set()
        while ends:
            at = ends.pop()
            for start, _, _, end in drawing.links:
                if start == at:
                    (found.add(top[end]) if end in top else ends.append(end))
        assert found == {n for n, some in enumerate(reads) if k in some}


def test_a_large_graph_is_drawn_in_part_and_says_so() -> None:
    node = [onnx.helper.make_node("Neg", [f"v{k}"], [f"v{k + 1}"], f"neg{k}") for k in range(400)]
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in ("v0", "v400")]
    model = onnx.helper.make_model(onnx.helper.make_graph(node, "long", value[:1], value[1:]), ir_version=8)
    section = graph_section(cimc.compile(model, "ideal"))
    assert len(section.drawings[0].boxes) <= MOST_NODES
    assert "steps" in section.drawings[0].about
    assert len(section.tables[0].rows) == 400


def test_a_png_holds_the_map() -> None:
    values = np.array([[1.0, np.nan, 2.0], [3.0, 2.0, 1.0]], np.float32)
    data = png(values, 1.0, 3.0)
    assert struct.unpack(">II", data[16:24]) == (3, 2)
    start = data.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", data[start - 8 : start - 4])
    lines = np.frombuffer(zlib.decompress(data[start : start + size]), np.uint8).reshape(2, 4)
    assert (lines[:, 0] == 0).all()
    assert lines[:, 1:].tolist() == [[1, 0, 32], [63, 32, 1]]
    assert len(palette()) == 63
    light = palette() @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()  # the order is seen without colour


def test_a_large_map_is_made_of_means() -> None:
    values = np.arange(4500 * 6, dtype=np.float32).reshape(4500, 6)
    values[0, 0] = np.nan
    small, factor = pooled(values)
    assert (factor, small.shape) == (3, (1500, 2))
    assert small[0, 0] == pytest.approx(np.nanmean(values[:3, :3]))
    assert small[5, 1] == pytest.approx(values[15:18, 3:].mean())


def test_a_program_without_layers_or_places_has_a_page_too(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Neg", ["x"], ["y"], "neg")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", value[:1], value[1:]), ir_version=8)
    artefact = program_artefact(cimc.compile(model, "bulk-rram"), "m.cim", "m")
    assert [section.title for section in artefact.sections] == ["Model graph", "Made from"]
    assert arrays_section([], [], {}, "", "m") is None


def test_bars_of_the_forecast_are_its_causes(program: cimc.Program) -> None:
    expected = program.forecast()
    (picture,) = forecast_section(expected).pictures
    for number, layer in enumerate(expected.layers):
        assert picture.names[number] == layer.layer
        shares = {bars.label: bars.values[number] for bars in picture.bars}
        for cause, db in layer.causes_db.items():
            assert -10 * np.log10(shares[cause] / 100) == pytest.approx(db)
    outputs, layers = forecast_section(expected).tables
    assert [row[1] for row in outputs.rows] == [one.sqnr_db for one in expected.outputs]
    assert [row[1] for row in layers.rows] == [one.sqnr_db for one in expected.layers]


def test_a_page_of_many_large_arrays_has_room_for_some_maps_only() -> None:
    views = [ArrayView(0, tile, 2048, 2048, [Block("a", 0, 0, 2048, 2048)]) for tile in range(9)]
    assert len(with_map(views)) == 4
    section = arrays_section(views, ["a"], {(0, 0): np.ones((2048, 2048), np.float32)}, "held", "m")
    assert section is not None
    assert "The first 1 of 9 arrays have a map." in section.notes
    many = arrays_section([ArrayView(0, tile, 8, 8, []) for tile in range(500)], [], {}, "", "m")
    assert many is not None
    assert len(many.drawings[0].boxes) == 240
    assert "The first 240 of 500 arrays" in many.drawings[0].about
