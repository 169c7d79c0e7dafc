"""Let ZigZag search the cheapest mapping of every layer, and write what it spends.

Runs in the environment of stages/pipelines/hardware/zigzag.txt, as a program of its own.

Reads   workload.yaml, accelerator.yaml and mapping.yaml of a folder, in ZigZag's formats
Writes  result.json there: ZigZag's version, and for every layer MACs, their energy, and by memory
        and operand the energy and the accesses, reads and writes
"""

import argparse
import json
import logging
from importlib.metadata import version
from pathlib import Path

from zigzag.cost_model.cost_model import CostModelEvaluation
from zigzag.hardware.architecture.memory_port import DataDirection
from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.main import MainStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.workload_parser import WorkloadParserStage
from zigzag.stages.results.reduce_stages import MinimalEnergyStage
from zigzag.stages.workload_iterator import WorkloadStage

# What zigzag.api runs when it minimizes energy, without the stages that save pickles and pictures.
STAGES = [
    WorkloadParserStage,
    AcceleratorParserStage,
    WorkloadStage,
    MinimalEnergyStage,
    SpatialMappingGeneratorStage,
    MinimalEnergyStage,
    TemporalMappingGeneratorStage,
    CostModelStage,
]
READS = (DataDirection.RD_OUT_TO_LOW, DataDirection.RD_OUT_TO_HIGH)
WRITES = (DataDirection.WR_IN_BY_LOW, DataDirection.WR_IN_BY_HIGH)


def evaluations(folder: Path, loop_factors: int) -> list[CostModelEvaluation]:
    """The cheapest found for each layer, in their order."""
    found = MainStage(
        STAGES,
        workload=str(folder / "workload.yaml"),
        accelerator=str(folder / "accelerator.yaml"),
        mapping=str(folder / "mapping.yaml"),
        loma_lpf_limit=loop_factors,
        loma_show_progress_bar=False,
        nb_mappings_generated=1,  # the spatial mapping is given
        temporal_mapping_type=TemporalMappingType.UNEVEN,
        access_same_data_considered_as_no_access=True,  # as in zigzag.api
    ).run()
    return [evaluation for evaluation, _ in found]


def spent(evaluation: CostModelEvaluation) -> dict:
    layer, hierarchy = evaluation.layer, evaluation.accelerator.memory_hierarchy
    memories: dict[str, dict] = {}
    for operand, energies in evaluation.mem_energy_breakdown.items():
        levels = hierarchy.get_memory_levels(layer.memory_operand_links.layer_to_mem_op(operand))
        accesses = evaluation.memory_word_access[operand]
        for level, energy_pj, moved in zip(levels, energies, accesses, strict=True):
            memories.setdefault(level.name, {})[operand.name] = {
                "energy_pj": energy_pj,
                "reads": sum(moved.get(direction) for direction in READS),
                "writes": sum(moved.get(direction) for direction in WRITES),
            }
    return {
        "macs": layer.total_mac_count,
        "arithmetic_pj": evaluation.mac_energy,
        "memories": memories,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loop-factors", type=int, required=True, help="of a layer, at most")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    found = {item.layer.name: spent(item) for item in evaluations(args.folder, args.loop_factors)}
    result = {"version": version("zigzag-dse"), "layers": found}
    (args.folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
