"""A device's profile: what it predicts, what is refused, and when pruning gets it."""

import argparse
import copy
import dataclasses
import json

import pytest

from stages import latency_profile as device
from stages import prune
from stages.common.core.cli import InputError
from stages.common.pruning.latency.model import load_latency_model, model_from, read_profile
from stages.common.training.checkpoints import EpochStore
from tests.networks import call, random_network
from tests.profiles import profile
from tests.test_plan import PARAMS

SHAPE = [[16, 24], [32, 16]]


def test_a_prediction_is_the_constant_and_one_entry_of_every_table():
    content = profile(SHAPE)
    tables = content["fitted"]["fp32"]["new"]["layers_ms"]
    expected = 0.05 + tables[0][0][1] + tables[1][1][0] + tables[2][0][3] + tables[3][3][1]
    expected += tables[4][1][0]
    model = model_from(content, "p.json")
    assert model.predict([[16, 8], [32, 16]]) == pytest.approx(expected)
    halved = 0.05 + (expected - 0.05) / 2
    int8 = dataclasses.replace(model, precision="int8")
    assert int8.predict([[16, 8], [32, 16]]) == pytest.approx(halved)


def test_the_prediction_is_that_of_the_faster_engine():
    both = model_from(profile(SHAPE, {"new": 1.0, "classic": 0.8}), "p.json")
    classic = model_from(profile(SHAPE, {"classic": 0.8}), "p.json")
    assert both.predict(SHAPE) == classic.predict(SHAPE)
    assert both.predict_by_engine(SHAPE, "fp32")["new"] > both.predict(SHAPE)


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ([[16, 24], [32, 24]], "covers networks up to"),
        ([[16, 24]], "covers networks up to"),
        ([[16, 20], [32, 16]], "multiples of 8"),
    ],
)
def test_widths_that_were_not_measured_are_refused(widths, said):
    with pytest.raises(InputError, match=said):
        model_from(profile(SHAPE), "p.json").predict(widths)


def damaged(**changes: object) -> dict:
    content = copy.deepcopy(profile(SHAPE))
    content["fitted"]["fp32"]["new"].update(changes)
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no 'edge latency profile 1'"),
        ('{"format": "edge latency profile 0"}', "is no 'edge latency profile 1'"),
        ('{"format": "edge latency profile 1"}', "is damaged"),
        (json.dumps(damaged(constant_ms=-1)), "is damaged"),
        (json.dumps(damaged(constant_ms=float("nan"))), "is damaged"),
        (json.dumps(damaged(layers_ms=[[[0.1, 0.1]]])), "is damaged"),
        (json.dumps({**profile(SHAPE), "fitted": {"fp32": {}, "int8": {}}}), "no engine for fp32"),
    ],
)
def test_a_damaged_or_foreign_profile_is_refused(tmp_path, content, said):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as refusal:
        read_profile(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is no JSON"), ("[]", "is damaged"), ('{"used": true}', "is damaged"), (None, "missing")],
)
def test_a_damaged_latency_model_is_refused(tmp_path, content, said):
    path = tmp_path / "latency_model.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        load_latency_model(path)


def test_a_precision_that_the_device_does_not_run_is_refused(tmp_path):
    path = tmp_path / "latency_model.json"
    content = profile(SHAPE)
    content["fitted"]["int8"] = {}
    path.write_text(json.dumps(content))
    assert load_latency_model(path).precision == "fp32"
    with pytest.raises(InputError, match="no engine of test runs int8 networks: set prune.prec"):
        load_latency_model(path, "int8")


def hand_over(
    tmp_path, monkeypatch, target: str, budget_ms: float, factory="chain", precision="fp32"
) -> None:
    params = tmp_path / "params.yaml"
    # Other keys of the sections are none of this stage's business.
    params.write_text(
        f"prune: {{target: {target}, budget_ms: {budget_ms}, precision: {precision}, amount: 7}}\n"
        f"network: {{factory: {factory}, weights: 7}}\n"
    )
    files = {"profile": tmp_path / "p.json", "latency": tmp_path / "model.json"}
    call(device, monkeypatch, params=params, **files)


def test_pruning_gets_no_latency_where_it_asks_for_none(tmp_path, monkeypatch):
    """And the same bytes whatever the profile holds, so that a new one prunes nothing anew."""
    hand_over(tmp_path, monkeypatch, "macs", 0)
    without = (tmp_path / "model.json").read_bytes()
    with pytest.raises(InputError, match="holds no latencies; run 'dvc repro latency_profile'"):
        load_latency_model(tmp_path / "model.json")
    (tmp_path / "p.json").write_text(json.dumps(profile(SHAPE)))
    hand_over(tmp_path, monkeypatch, "params", 0)
    assert (tmp_path / "model.json").read_bytes() == without
    hand_over(tmp_path, monkeypatch, "latency", 0.5, "torchvision:resnet18")
    assert (tmp_path / "model.json").read_bytes() == without, "measured, not looked up"


@pytest.mark.parametrize(("target", "budget_ms"), [("latency", 0), ("macs", 0.5)])
def test_pruning_gets_the_profile_where_it_counts_milliseconds(
    tmp_path, monkeypatch, target, budget_ms
):
    with pytest.raises(InputError, match="measure it with 'python deploy/profile_device.py"):
        hand_over(tmp_path, monkeypatch, target, budget_ms)
    assert not (tmp_path / "model.json").exists()
    content = profile(SHAPE)
    (tmp_path / "p.json").write_text(json.dumps({**content, "measured": {"long": "tables"}}))
    hand_over(tmp_path, monkeypatch, target, budget_ms)
    expected = model_from(content, "p.json").predict(SHAPE)
    assert load_latency_model(tmp_path / "model.json").predict(SHAPE) == expected
    assert "measured" not in (tmp_path / "model.json").read_text()


def test_int8_milliseconds_need_a_profile_of_int8_before_anything_is_trained(tmp_path, monkeypatch):
    content = profile(SHAPE)
    (tmp_path / "p.json").write_text(json.dumps(content))
    hand_over(tmp_path, monkeypatch, "latency", 0.5, precision="int8")
    content["fitted"]["int8"] = {}
    (tmp_path / "p.json").write_text(json.dumps(content))
    (tmp_path / "model.json").unlink()
    with pytest.raises(InputError, match=r"p.json: no engine of test runs int8 networks"):
        hand_over(tmp_path, monkeypatch, "latency", 0.5, precision="int8")
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_pruning_counts_the_milliseconds_of_its_precision(tmp_path, precision):
    (tmp_path / "model.json").write_text(json.dumps(profile(SHAPE)))
    args = argparse.Namespace(latency=tmp_path / "model.json")
    params = dataclasses.replace(PARAMS, budget_ms=0.5, precision=precision)
    model = prune.cost_model_of(random_network(), args, params, [], EpochStore(tmp_path))
    expected = dataclasses.replace(model_from(profile(SHAPE), "p.json"), precision=precision)
    assert model.predict(SHAPE) == expected.predict(SHAPE)
