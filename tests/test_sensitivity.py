"""stages.sensitivity: what INT8 costs in each layer alone, as a table and a picture."""

import csv

import pytest
from matplotlib import image as png

from stages.common.core.cli import InputError
from stages.common.inference.int8.layers import layers_of
from stages.sensitivity import measure
from tests.networks import call, fp32_bytes, fp32_model, write_params


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict:
    path = tmp_path / "model.onnx"
    path.write_bytes(fp32_bytes())
    return {
        "params": write_params(tmp_path / "params.yaml"),
        "data": data_directory,
        "network": f"base={path}",
        "csv": tmp_path / "sensitivity.csv",
        "table": tmp_path / "sensitivity.md",
        "picture": tmp_path / "sensitivity.png",
    }


def test_every_layer_has_a_row_in_the_graphs_order(arguments, monkeypatch):
    call(measure, monkeypatch, **arguments)

    rows = list(csv.DictReader(arguments["csv"].open()))
    assert [row["layer"] for row in rows] == [layer.name for layer in layers_of(fp32_model())]
    assert list(rows[0]) == ["network", "layer", "operator", "accuracy_drop", "logit_error"]
    assert all(float(row["logit_error"]) > 0 for row in rows)
    lines = arguments["table"].read_text().splitlines()
    assert sum(line.startswith("| base | ") for line in lines) == len(rows)
    assert all(len(cell) <= 40 for line in lines if "|" in line for cell in line.split("|"))
    assert "100 validation images" in lines[-1]
    assert png.imread(arguments["picture"]).std() > 0


def test_equal_inputs_give_equal_files(arguments, monkeypatch):
    call(measure, monkeypatch, **arguments)
    names = ("csv", "table", "picture")
    first = [arguments[name].read_bytes() for name in names]
    call(measure, monkeypatch, **arguments)

    assert [arguments[name].read_bytes() for name in names] == first


def test_excluded_layers_are_left_out_and_unknown_ones_refused(arguments, monkeypatch):
    write_params(arguments["params"], quantize={"exclude": ["whitening"]})
    call(measure, monkeypatch, **arguments)
    assert "whitening" not in arguments["csv"].read_text()

    write_params(arguments["params"], quantize={"exclude": ["whitenin"]})
    with pytest.raises(InputError, match="no layer 'whitenin'; nearest: 'whitening'"):
        call(measure, monkeypatch, **arguments)


def test_a_network_without_a_name_is_refused(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(measure, monkeypatch, **{**arguments, "network": "model.onnx"})
    assert "expected NAME=PATH" in capsys.readouterr().err
