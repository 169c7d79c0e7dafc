"""A microcontroller's view of an INT8 TFLite file: memory, operators, integers, C++ sources."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES
from stages.common.inference.layer_graph.graph import quantization_between, with_output
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.runtimes.litert import LiteRTSession, to_integers
from stages.common.inference.sessions import predict
from stages.common.inference.tflite.file import load_tflite, write_none
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.mcu import interpreter
from stages.common.mcu.boards import Board, verdict
from stages.common.mcu.bundle import quoted, write_mcu_bundle
from stages.common.mcu.interpreter import TFLiteMicroSession, smallest, smallest_arena
from stages.common.mcu.reference import reference_logits
from stages.common.mcu.structure import registrations, structure_of
from stages.common.pruning.memory.arena import Buffer, planned_bytes
from stages.mcu import measure, table
from tests.conftest import make_images
from tests.networks import call, int8_tflite, write_models, write_params
from tests.small_graphs import inverted_residual, residual, write_int8

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_tflite_micro = pytest.mark.skipif(
    importlib.util.find_spec(interpreter.PACKAGE) is None,
    reason="tflite-micro (requirements-mcu.txt) is not installed",
)
BOARD = {"ram_kb": 256, "flash_kb": 1024, "source": "https://example.com/board"}
MCU = {"images": 20, "program_ram_kb": 8, "program_flash_kb": 64, "boards": {"Board": BOARD}}
TFLM_HEADERS = (
    "tensorflow/lite/micro/micro_interpreter.h",
    "tensorflow/lite/micro/micro_log.h",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h",
    "tensorflow/lite/micro/system_setup.h",
    "tensorflow/lite/schema/schema_generated.h",
)
GRAPHS = {"residual": residual, "inverted_residual": inverted_residual}


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "model.tflite"
    path.write_bytes(int8_tflite())
    return path


@pytest.fixture(scope="module")
def bundle(chain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_mcu_bundle(chain, folder)
    return folder


def write_graph(folder: Path, name: str) -> Path:
    """A small network with branches as INT8 TFLite."""
    graph = read_graph(write_int8(folder / "model.onnx", GRAPHS[name]()))
    path = folder / "model.tflite"
    path.write_bytes(tflite_bytes(with_output(graph, quantization_between(-8.0, 8.0))))
    return path


# ------------------------------------------------------------------------------------------ arena


def test_tensors_that_are_never_alive_together_share_bytes():
    assert planned_bytes([Buffer(48, 0, 1), Buffer(32, 1, 2), Buffer(48, 2, 3)]) == 80


def test_a_small_tensor_goes_into_the_first_gap_that_it_fits():
    alive = [Buffer(64, 0, 1), Buffer(32, 0, 3), Buffer(16, 2, 3)]
    assert planned_bytes(alive) == 96  # the last one lies where the first was


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_never_smaller_than_what_is_alive_at_once(seed):
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.integers(0, 8, (12, 2)), axis=1)
    sizes = 16 * rng.integers(1, 9, 12)
    buffers = [
        Buffer(int(size), int(first), int(last))
        for size, (first, last) in zip(sizes, steps, strict=True)
    ]
    alive = [sum(each.size for each in buffers if each.first <= t <= each.last) for t in range(8)]
    assert max(alive) <= planned_bytes(buffers) <= sum(each.size for each in buffers)


@pytest.mark.parametrize("needed", [1, 2, 99, 100, 101, 4096, 70_000])
def test_the_smallest_number_is_found_from_any_estimate(needed):
    asked = []

    def is_enough(number: int) -> bool:
        asked.append(number)
        return number >= needed

    for estimate in (1, needed - 1 or 1, needed, needed + 5, 2 * needed):
        assert smallest(is_enough, estimate, floor=0) == needed
    assert min(asked) > 0


@needs_tflite_micro
@pytest.mark.parametrize("name", ["chain", *GRAPHS])
def test_the_estimated_arena_is_near_the_smallest_that_works(chain, tmp_path, name):
    path = chain if name == "chain" else write_graph(tmp_path, name)
    estimate = structure_of(load_tflite(path)).estimated_arena()
    found = smallest_arena(path)
    assert found == pytest.approx(estimate, rel=0.02)
    TFLiteMicroSession(path, found)
    with pytest.raises(InputError, match="refuses this model in an arena of"):
        TFLiteMicroSession(path, found - 1)


# ------------------------------------------------------------------------------------ interpreter


@needs_tflite_micro
@pytest.mark.parametrize("name", ["chain", *GRAPHS])
def test_tensorflow_lite_micro_computes_the_integers_of_litert(chain, tmp_path, name):
    path = chain if name == "chain" else write_graph(tmp_path, name)
    images = make_images(20, seed=3)
    session = TFLiteMicroSession(path)
    expected = reference_logits(path, images.pixels.transpose(0, 2, 3, 1))
    difference = np.abs(integers(session, predict(session, images, 7)) - expected)
    assert difference.max() <= (0 if name == "chain" else 1)  # by one rounding
    assert np.mean(difference == 0) > 0.95


def integers(session: TFLiteMicroSession, logits: np.ndarray) -> np.ndarray:
    scale, zero_point = session._output["quantization"]
    return np.rint(logits / np.float32(scale)) + zero_point


@needs_tflite_micro
def test_the_interpreter_prints_nothing(chain, capfd):
    smallest_arena(chain)
    TFLiteMicroSession(chain)
    assert capfd.readouterr() == ("", "")


def test_a_missing_interpreter_is_one_line(chain, monkeypatch, tmp_path, data_directory):
    monkeypatch.setattr(interpreter, "PACKAGE", "no_such_package")
    with pytest.raises(
        InputError, match=r"tflite-micro is missing.*requirements-mcu\.txt.*make mcu"
    ):
        run_stage(monkeypatch, tmp_path, data_directory, chain)
    assert not (tmp_path / "base.json").exists()


# -------------------------------------------------------------------------------------- operators


def test_an_operator_is_registered_once(chain):
    structure = structure_of(load_tflite(chain))
    assert structure.kinds() == ["CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D"]
    assert registrations(structure, chain) == ["AddConv2D", "AddFullyConnected", "AddMaxPool2D"]


# ----------------------------------------------------------------------------------------- boards


@pytest.mark.parametrize(
    ("ram", "flash", "said"),
    [
        (128 * 1024, 768 * 1024, "fits: 50 % of RAM, 75 % of flash"),
        (256 * 1024, 1024 * 1024, "fits: 100 % of RAM, 100 % of flash"),
        (256 * 1024 + 1, 1024, "no: RAM by 1 KB"),
        (300 * 1024, 3 * 1024 * 1024, "no: RAM by 44 KB, flash by 2,048 KB"),
    ],
)
def test_a_verdict_says_how_much_is_missing(ram, flash, said):
    assert verdict(Board("Board", 256 * 1024, 1024 * 1024, "https://x"), ram, flash) == said


# ---------------------------------------------------------------------------------------- bundle


def compile_and_run(folder: Path, program: str, *sources: str) -> str:
    """As C++17 that warns of nothing; what the program prints."""
    (folder / "program.cc").write_text(program)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(folder)]
    command += [str(folder / each) for each in ("program.cc", *sources)]
    subprocess.run([*command, "-o", str(folder / "program")], check=True)
    return subprocess.run([folder / "program"], capture_output=True, text=True).stdout


@needs_compiler
def test_the_array_in_flash_is_the_file_byte_for_byte(chain, bundle):
    program = """
    #include <cstdint>
    #include <cstdio>
    #include "model.h"
    int main() {
      if (reinterpret_cast<std::uintptr_t>(kModel) % 16 != 0) return 1;
      for (std::size_t each = 0; each < kModelBytes; ++each) std::printf("%02x", kModel[each]);
    }
    """
    assert bytes.fromhex(compile_and_run(bundle, program, "model.cc")) == chain.read_bytes()


@needs_compiler
def test_cpp_quantizes_pixels_as_litert_is_fed(chain, bundle):
    program = """
    #include <cstdio>
    #include "model_io.h"
    int main() {
      for (int pixel = 0; pixel < 256; ++pixel) std::printf("%d ", QuantizedPixel(pixel));
      for (int integer = -128; integer < 128; ++integer) std::printf("%.9g ", Logit(integer));
      for (const char* name : kClassNames) std::printf("%s ", name);
    }
    """
    found = compile_and_run(bundle, program).split()
    session = LiteRTSession(chain, 1, "fixed_point")
    pixels = to_integers(np.arange(256, dtype=np.float32), session._input)
    assert [int(each) for each in found[:256]] == pixels.tolist()
    scale, zero_point = session._output["quantization"]
    reals = np.float32(scale) * (np.arange(-128, 128) - zero_point)
    np.testing.assert_allclose([float(each) for each in found[256:512]], reals, rtol=1e-6)
    assert found[512:] == list(CLASSES)


@needs_compiler
def test_the_main_program_compiles_and_passes_its_self_test(bundle):
    """Against the part of TensorFlow Lite Micro's interface that it uses, not against TFLM itself:
    no package with its headers was found (PyPI, Debian).
    """
    for header in TFLM_HEADERS:
        (bundle / header).parent.mkdir(parents=True, exist_ok=True)
        (bundle / header).write_text('#include "tflite_micro_stub.h"\n')
    shutil.copy(Path(__file__).parent / "tflite_micro_stub.h", bundle)
    lines = compile_and_run(bundle, (bundle / "main.cc").read_text(), "model.cc").splitlines()
    assert lines[1] == "self-test: logits off by 0 of at most 2"
    name, _, logit = lines[2].partition(", logit ")
    assert name in CLASSES
    assert logit.endswith("/1000")


@needs_compiler
@needs_tflite_micro
def test_the_self_test_is_the_interpreters_answer_to_its_picture(chain, bundle):
    program = """
    #include <cstdio>
    #include "model_io.h"
    int main() {
      for (std::size_t index = 0; index < kInputBytes; ++index)
        std::printf("%d ", SelfTestPixel(index));
      for (int logit : kSelfTestLogits) std::printf("%d ", logit);
    }
    """
    found = [int(each) for each in compile_and_run(bundle, program).split()]
    picture = np.array(found[:3072], np.float32).reshape(1, 32, 32, 3).transpose(0, 3, 1, 2)
    session = TFLiteMicroSession(chain)
    assert np.abs(integers(session, session.logits(picture))[0] - found[3072:]).max() <= 1


def test_equal_files_give_equal_bundles_and_a_page_of_one_screen(chain, bundle, tmp_path):
    files = write_mcu_bundle(chain, tmp_path)
    names = ["README.md", "main.cc", "model.cc", "model.h", "model_io.h", "operators.h"]
    assert sorted(path.name for path in files) == names
    for path in files:
        assert path.read_bytes() == (bundle / path.name).read_bytes()
    assert len((tmp_path / "README.md").read_text().splitlines()) <= 40


def test_a_measured_arena_goes_into_the_program_rounded_to_its_alignment(chain, tmp_path):
    write_mcu_bundle(chain, tmp_path, arena_bytes=63_481)
    assert "kArenaBytes = 63488;" in (tmp_path / "main.cc").read_text()
    assert "Estimated" not in (tmp_path / "README.md").read_text()


def test_a_network_without_a_file_has_no_bundle(tmp_path):
    write_none(tmp_path / "none.tflite", "1 of 8 layers is FP32")
    with pytest.raises(InputError, match="nothing to bundle: 1 of 8 layers is FP32"):
        write_mcu_bundle(tmp_path / "none.tflite", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_fp32_file_has_no_bundle(tmp_path):
    path = tmp_path / "fp32.tflite"
    path.write_bytes(tflite_bytes(read_graph(write_models(tmp_path)[0])))
    with pytest.raises(InputError, match=r"fp32.tflite is not INT8 from input to output"):
        write_mcu_bundle(path, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("name", "literal"),
    [("cat", '"cat"'), ('a "b"\\', r'"a \042b\042\134"'), ("é1", r'"\303\2511"')],
)
def test_a_class_name_is_a_literal_of_cpp(name, literal):
    assert quoted(name) == literal


# ---------------------------------------------------------------------------------------- stages


def run_stage(monkeypatch, folder: Path, data: Path, tflite: Path) -> None:
    files = {
        "params": write_params(folder / "params.yaml", mcu=MCU),
        "bundle": folder / "bundle",
        "metrics": folder / "base.json",
    }
    call(measure, monkeypatch, data=data, tflite=tflite, **files)


@needs_tflite_micro
def test_the_stages_write_what_a_network_needs_beside_the_boards(
    chain, monkeypatch, tmp_path, data_directory, capsys
):
    run_stage(monkeypatch, tmp_path, data_directory, chain)
    found = json.loads((tmp_path / "base.json").read_text())
    assert found["images"] == 20
    assert found["flash_bytes"] == len(int8_tflite())
    assert found["operators"] == {"CONV_2D": 7, "FULLY_CONNECTED": 1, "MAX_POOL_2D": 4}
    assert found["litert"]["fixed_point"]["max_int8_difference"] <= 1
    assert (tmp_path / "bundle" / "main.cc").exists()
    show_table(monkeypatch, tmp_path, "base")
    page = (tmp_path / "mcu.md").read_text()
    assert "| [Board](https://example.com/board) | 256 KB | 1,024 KB | fits: " in page
    cells = r"\| base \| \d+ % \| \d+ % equal, off by \d \| \d+ % equal, off by [01] \|"
    assert re.search(cells, page)


def show_table(monkeypatch, folder: Path, *networks: str) -> None:
    words = ["table", "--params", f"{folder / 'params.yaml'}", "--metrics", f"{folder}"]
    words += [word for name in networks for word in ("--network", name)]
    monkeypatch.setattr("sys.argv", [*words, "--table", f"{folder / 'mcu.md'}"])
    table.main()


def test_a_network_without_a_file_is_named_with_the_reason(monkeypatch, tmp_path, data_directory):
    write_none(tmp_path / "none.tflite", "Tanh cannot be converted")
    run_stage(monkeypatch, tmp_path, data_directory, tmp_path / "none.tflite")
    assert json.loads((tmp_path / "base.json").read_text()) == {
        "unsupported": "Tanh cannot be converted"
    }
    show_table(monkeypatch, tmp_path, "base")
    assert (tmp_path / "mcu.md").read_text() == (
        "base has no TFLite file: Tanh cannot be converted.\n"
    )
