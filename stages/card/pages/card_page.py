"""A model card as Markdown."""

from stages.card.pages.card import CLEAN, Card
from stages.card.pages.comparison import change_text
from stages.card.pages.kinds import calibration_text, conditions_text, titles
from stages.common.core.accuracy import decimals_of, percent_text
from stages.common.reporting.comparison_table import machine_note
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.runtimes import RUNTIMES

MOST_NAMED = 20  # classes in a sentence
TARGETS = {"macs": "MACs", "params": "params", "latency": "milliseconds"}


def card_page(card: Card, files: list[str]) -> str:
    """``files``: a line for each further file that the card goes with."""
    sections = [
        f"# Model card: {card.name}",
        purpose(card),
        "\n".join(f"- {line}" for line in [*facts(card), *files]),
        "## Accuracy",
        accuracy_text(card),
        class_table(card),
        "## Corrupted images and confidence",
        robustness_table(card),
        *robustness_notes(card),
        "## Time",
        time_table(card),
        f"{machine_note(card.environment)}, batch 1, timed in turns with the other models. Another "
        "processor has other milliseconds, and other ratios.",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def purpose(card: Card) -> str:
    classes = card.metadata["classes"]
    height, width = card.metadata["input"]["size"]
    named = ", ".join(classes[:MOST_NAMED]) + (", ..." if len(classes) > MOST_NAMED else "")
    return (
        f"Sorts a picture of {height} x {width} pixels into {len(classes)} classes: {named}. Every "
        "picture gets one of them, whatever it shows."
    )


def facts(card: Card) -> list[str]:
    costs = card.evaluation
    return [
        f"File: `{card.file}`, {'INT8' if card.is_int8 else 'FP32'}, {card.size_bytes:,} bytes, "
        f"SHA-256 `{card.sha256}`. A bundle's copy has this card in its metadata besides, under "
        "`card`.",
        f"Cost: {costs['macs']:,} MACs, {costs['params']:,} params ({costs['nonzero_params']:,} "
        f"not zero), {costs['peak_activation_bytes']:,} bytes of activations at most.",
        f"Input: RGB, 0 to 255, {resize_text(card)}.",
        f"Licence: {card.licences.licence or 'not stated'}; its text is in `LICENSE`.",
        data_text(card),
        training_text(card),
    ]


def resize_text(card: Card) -> str:
    resize = card.metadata["input"].get("resize", "crop")
    return "all of the picture, stretched" if resize == "stretch" else "the picture's centre"


def data_text(card: Card) -> str:
    provenance = card.metadata["provenance"]
    counts = provenance["data"]
    of_cifar = f"{counts['train_images']:,}, " if card.dataset == "CIFAR-10" else ""
    return (
        f"Data: {card.dataset}; licence: {card.data_licence}. Training images: {of_cifar}SHA-256 "
        f"of pixels and labels `{provenance['data_digest']}`. Test images, by which nothing was "
        f"chosen: {card.robustness['images']:,}, `{card.robustness['digest']}`."
    )


def training_text(card: Card) -> str:
    provenance = card.metadata["provenance"]
    steps = [trained(provenance)]
    if "prune" in provenance:
        steps.append(pruned(provenance["prune"]))
    if card.is_int8:
        steps.append(quantized(card.metadata["quantize"]))
    return (
        f"Training: {'; '.join(steps)}. All params are in the file's metadata, under `provenance`."
    )


def trained(provenance: dict) -> str:
    train, network = provenance["train"], provenance.get("network", {})
    text = f"{train['epochs']} epochs, seed {train['seed']}"
    if provenance.get("teacher"):
        text += ", wider networks as teacher"
    if network.get("weights"):
        text += f", from the weights {network['weights']}"
    return text


def pruned(prune: dict) -> str:
    if prune.get("widths"):
        goal = "to given widths"
    elif prune.get("budget_ms"):
        goal = f"to {prune['budget_ms']:g} ms"
    else:
        goal = f"by {100 * prune['amount']:g} % of the {TARGETS[prune['target']]}"
    return f"{prune['method']} pruning {goal}, {prune['epochs']} epochs of fine-tuning"


def quantized(quantize: dict) -> str:
    bits = 7 if quantize["reduce_range"] else 8
    text = f"INT8 with {bits}-bit weights, {quantize['calibration_images']} images for its ranges"
    aware = quantize.get("aware_epochs")
    return f"{text}, {aware} epochs of fine-tuning for it" if aware else text


def accuracy_text(card: Card) -> str:
    images = card.evaluation["images"]
    decimals = decimals_of(images)
    low, high = (f"{limit:.{decimals}f}" for limit in card.accuracy_interval)
    return (
        f"{percent_text(card.evaluation['accuracy'], images)} of {images:,} test images, 95 % "
        f"interval {low} to {high} (Clopper and Pearson), in {runtime_text(card)}. Recall of each "
        "class:"
    )


def runtime_text(card: Card) -> str:
    """ "OpenCV DNN (new)": the runtime of the evaluation, and its engine."""
    runtime, _, engine = card.own["evaluated_in"].partition("_")
    return f"{RUNTIMES[runtime]} ({engine})" if engine else RUNTIMES[runtime]


def class_table(card: Card) -> str:
    heads = ["class", "recall"]
    recalls = card.evaluation["class_accuracy"]
    alike = card.evaluation["images"] // len(recalls)  # images of a class, where classes are even
    counts = card.evaluation.get("class_images", dict.fromkeys(recalls, alike))
    lows, highs = (card.evaluation.get(f"class_accuracy_{end}", {}) for end in ("low", "high"))
    rows = [
        [
            name.replace("|", "\\|"),
            percent_text(recall, counts[name])
            + (f" [{lows[name]:g}, {highs[name]:g}]" if name in lows else ""),
        ]
        for name, recall in recalls.items()
    ]
    return as_table([heads, name_and_figures(heads), *rows])


def robustness_table(card: Card) -> str:
    """A row for each kind of images: accuracy, its change beside other models, the ECE of all."""
    images, others = card.robustness["images"], card.compared_with
    models = card.robustness["models"]
    heads = ["images", "accuracy", *(f"points beside {name}" for name in others)]
    heads += ["ECE", *(f"ECE of {name}" for name in others)]
    rows = [
        [
            title,
            percent_text(card.own["accuracy"][kind], images),
            *(change_text(card.own["changes"][name][kind], images) for name in others),
            *(
                percent_text(models[name]["calibration_error"][kind], images)
                for name in (card.name, *others)
            ),
        ]
        for kind, title in titles(card.robustness["conditions"]).items()
    ]
    return as_table([heads, name_and_figures(heads), *rows])


def robustness_notes(card: Card) -> list[str]:
    images = card.robustness["images"]
    gap = card.own["confidence"][CLEAN] - card.own["accuracy"][CLEAN]
    side = "above" if gap > 0 else "below"
    return [
        f"On clean images the mean confidence is {abs(gap):.{decimals_of(images)}f} points {side} "
        f"the accuracy. {calibration_text(card.robustness)}",
        f"{conditions_text(card.robustness)} Points: 95 % intervals of the images that only one "
        "of the two models got right (McNemar's).",
    ]


def time_table(card: Card) -> str:
    heads = ["runtime", "median", "5th to 95th percentile", "beside the base"]
    rows = [
        [
            f"{title} ({block['engine']})",
            f"{block['latency_ms_median']:.2f} ms",
            f"{block['latency_ms_p5']:.2f} to {block['latency_ms_p95']:.2f} ms",
            "" if block["ratio_to_base"] is None else f"{block['ratio_to_base']:.2f} ×",
        ]
        for runtime, title in RUNTIMES.items()
        if (block := card.benchmark.get(runtime))
    ]
    return as_table([heads, name_and_figures(heads), *rows])
