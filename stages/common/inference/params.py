"""Params of the stages that write and run ONNX and TFLite files.

They stand apart from their stages because ``validate_params`` reads all sections: it must not wait
for torch or a runtime.
"""

from dataclasses import dataclass

from stages.common.core.cli import InputError
from stages.common.core.params import flag, number, one_of, texts, whole

FP32, FP16 = "fp32", "fp16"


@dataclass(frozen=True)
class ExportParams:
    """How the ONNX file is written, and how far the runtimes may be from PyTorch.

    ``precision``: of weights and activations; the input and the output are FP32.
    """

    precision: str = one_of(FP32, FP16, usual=FP32)
    opset: int = whole(at_least=18, at_most=21)
    check_images: int = whole(at_least=1)
    logit_tolerance: float = number(at_least=0)


@dataclass(frozen=True)
class QuantizeParams:
    """How ranges are found, and how much accuracy INT8 may cost.

    ``reduce_range`` keeps weights to 7 bits: without VNNI an x86 CPU adds two products in 16 bits,
    which overflow with 8-bit weights, and accuracy collapses on that CPU only.

    ``logit_tolerance``: percent of the logits by which a runtime may differ from what the INT8
    file says. ``exclude`` names layers that stay FP32. ``repair`` greedy excludes more, the worst
    first, until ``max_accuracy_drop`` is met. ``aware_epochs`` fine-tune the weights for INT8;
    ``aware_distillation`` is the weight of the FP32 model's outputs in the loss. ``symmetric``
    writes what TensorRT takes (see inference/int8/tensorrt.py): activations are int8 then.
    """

    calibration_images: int = whole(at_least=1)
    calibration_method: str = one_of("minmax", "entropy", "percentile")
    activation_type: str = one_of("uint8", "int8")
    symmetric: bool = flag(usual=False)
    reduce_range: bool = flag()
    max_accuracy_drop: float = number(at_least=0, at_most=100)
    logit_tolerance: float = number(at_least=0)
    exclude: list[str] = texts()
    repair: str = one_of("none", "greedy")
    aware_epochs: int = whole(at_least=0)
    aware_batch_size: int = whole(at_least=1)
    aware_learning_rate: float = number(at_least=0, at_most=1)
    aware_distillation: float = number(at_least=0, at_most=1)
    aware_seed: int = whole(at_least=0)
    aware_device: str = one_of("auto", "cpu", "cuda", "mps")

    @property
    def activations(self) -> str:
        """The type of their integers: one of ``activation_type``."""
        return "int8" if self.symmetric else self.activation_type


def refuse_second_files(export: ExportParams, quantize: QuantizeParams) -> None:
    """Raise ``InputError`` for FP16 or symmetric INT8 in params.yaml: INT8 is made of the FP32
    file, and TFLite of an INT8 file as the usual params write it.
    """
    for key, value, usual in (
        ("export.precision", export.precision, FP32),
        ("quantize.symmetric", quantize.symmetric, False),
    ):
        if value != usual:
            raise InputError(
                f"{key} is {value!r}, which later stages do not take: set it to {usual!r}; "
                "'make jetson' writes such files besides, as stages/jetson/precision.yaml says"
            )


@dataclass(frozen=True)
class EvaluateParams:
    """How the test images are run."""

    engine: str = one_of("classic", "new", "auto")
    batch_size: int = whole(at_least=1)


@dataclass(frozen=True)
class TFLiteParams:
    """Images for the logits' range and for the check, and the agreement (%) it must show."""

    calibration_images: int = whole(at_least=1)
    check_images: int = whole(at_least=1)
    min_agreement: float = number(at_least=0, at_most=100)
