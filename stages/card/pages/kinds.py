"""Names of the kinds of test images, and the conditions under which they were made."""

FEW = 1000  # images: fewer than a hundred a bin
SOURCE = (
    "Kinds and strengths after Hendrycks and Dietterich (ICLR 2019), made from the test images at "
    "the network's input size"
)


def titles(conditions: dict) -> dict[str, str]:
    """By kind, in the order of columns; ``conditions``: the values of params' robustness."""
    return {
        "clean": "clean",
        "jpeg": f"JPEG {conditions['jpeg_quality']}",
        "noise": f"noise {conditions['noise']:g}",
        "blur": f"blur {conditions['blur']:g} px",
        "brightness": f"brightness {conditions['brightness']:+g}",
    }


def conditions_text(robustness: dict) -> str:
    """``robustness``: the JSON of the stage of that name."""
    conditions = robustness["conditions"]
    height, width = robustness["image_size"]
    return (
        f"{robustness['images']:,} test images. {SOURCE} ({height} x {width}): JPEG of quality "
        f"{conditions['jpeg_quality']}; Gaussian noise with a standard deviation of "
        f"{conditions['noise']:g} of a pixel's range, seed {conditions['seed']}; a Gaussian blur "
        f"of {conditions['blur']:g} pixels; HSV's value {conditions['brightness']:+g}. Every model "
        "saw the same images."
    )


def calibration_text(robustness: dict) -> str:
    chance = " Of so few images chance alone makes it larger." if robustness["images"] < FEW else ""
    return (
        "Expected calibration error: the distance of confidence (softmax) and accuracy in "
        f"{robustness['conditions']['calibration_bins']} bins of equal width, weighted by their "
        f"images (Guo et al., ICML 2017).{chance}"
    )
