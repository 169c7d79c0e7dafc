"""Class folders as people have them: every picture is used, or said by name why not."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.classify import fitted, read_image
from stages import prepare
from stages.common.core.cli import InputError
from stages.common.data.dataset import Images, load_test_images, load_training_images
from stages.common.data.params import DataParams
from tests.conftest import data_params

FULL = 10**6


def picture(number: int, shape: tuple[int, ...] = (40, 50, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)


def write(path: Path, number: int, shape: tuple[int, ...] = (40, 50, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix or ".png"
    done, content = cv2.imencode(suffix, picture(number, shape))
    assert done
    path.write_bytes(content.tobytes())
    return path


def class_folders(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    number = start
    for name, count in counts.items():
        for _ in range(count):
            write(root / name / f"{number}.png", number)
            number += 1
    return root


@pytest.fixture
def photos(tmp_path) -> Path:
    return class_folders(tmp_path / "photos", {"ant": 10, "bee": 20})


def params_of(path: Path, **changes: object) -> DataParams:
    return data_params(FULL, FULL, source="folder", path=str(path), **changes)


def prepared(path: Path, target: Path, **changes: object) -> dict[str, Images]:
    params = params_of(path, **changes)
    prepare.prepare_images(target, params)
    train, validation = load_training_images(target, params)
    return {"train": train, "validation": validation, "test": load_test_images(target)}


def refusal(path: Path, target: Path, **changes: object) -> str:
    with pytest.raises(InputError) as caught:
        prepare.prepare_images(target, params_of(path, **changes))
    assert not target.exists()
    return str(caught.value)


# ---------------------------------------------------------------------------------------- splits


def test_every_class_is_split_by_the_same_share_and_no_picture_is_in_two_splits(
    photos, tmp_path, capsys
):
    splits = prepared(photos, tmp_path / "data")
    assert splits["train"].classes == ("ant", "bee")
    counts = {name: np.bincount(images.labels).tolist() for name, images in splits.items()}
    assert counts == {"train": [6, 13], "validation": [2, 3], "test": [2, 4]}
    seen = [image.tobytes() for images in splits.values() for image in images.pixels]
    assert len(set(seen)) == 30
    assert "there is no test split: 6 training pictures" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(photos, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        prepared(photos, tmp_path / name, split_seed=seed)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    other = tmp_path / "other" / "test_pixels.npy"
    assert other.read_bytes() != (tmp_path / "one" / "test_pixels.npy").read_bytes()


def test_splits_that_are_there_are_kept(tmp_path, capsys):
    root = tmp_path / "photos"
    for start, (name, count) in enumerate({"Train": 6, "val": 3, "test": 2}.items()):
        class_folders(root / name, {"a": count, "b": count}, start=100 * start)
    splits = prepared(root, tmp_path / "data")
    assert {name: len(images) for name, images in splits.items()} == {
        "train": 12,
        "validation": 6,
        "test": 4,
    }
    assert "split" not in capsys.readouterr().out


@pytest.fixture
def train_and_val(tmp_path) -> Path:
    root = tmp_path / "photos"
    class_folders(root / "train", {"ant": 10, "bee": 10})
    class_folders(root / "val", {"ant": 4, "bee": 6}, start=100)
    return root


def test_without_a_test_split_one_is_made_of_training_pictures(train_and_val, tmp_path):
    splits = prepared(train_and_val, tmp_path / "data")
    counts = {name: len(images) for name, images in splits.items()}
    assert counts == {"train": 16, "validation": 10, "test": 4}


def test_the_validation_split_is_the_test_split_where_params_say_so(
    train_and_val, tmp_path, capsys
):
    splits = prepared(train_and_val, tmp_path / "data", test_split="validation")
    counts = {name: len(images) for name, images in splits.items()}
    assert counts == {"train": 16, "validation": 4, "test": 10}
    said = capsys.readouterr().out
    assert "the validation split, 10 pictures, is the test split\n" in said
    assert "there is no validation split: 4 training pictures" in said
    class_folders(train_and_val / "test", {"ant": 1, "bee": 1}, start=200)
    splits = prepared(train_and_val, tmp_path / "again", test_split="validation")
    assert len(splits["test"]) == 10
    assert "the 2 pictures of the source's own are left out" in capsys.readouterr().out


def test_a_validation_split_that_is_not_there_is_no_test_split(photos, tmp_path):
    message = refusal(photos, tmp_path / "data", test_split="validation")
    assert "the source has no validation split; found: train" in message


def test_a_batch_larger_than_the_training_split_is_refused_and_nothing_is_written(photos, tmp_path):
    params = params_of(photos)
    sizes = {"teach.batch_size": 19, "train.batch_size": 20, "prune.batch_size": 500}
    with pytest.raises(InputError) as caught:
        prepare.prepare_images(tmp_path / "data", params, sizes)
    assert str(caught.value) == (
        "train.batch_size is 20, prune.batch_size is 500; allowed: at most 19, which is the "
        "number of training images in folder"
    )
    assert not (tmp_path / "data").exists()


def test_a_class_may_be_called_train(tmp_path):
    root = class_folders(tmp_path / "photos", {"bus": 6, "train": 6})
    assert prepared(root, tmp_path / "data")["test"].classes == ("bus", "train")


def test_test_pictures_without_classes_are_passed_over_and_said(photos, tmp_path, capsys):
    root = tmp_path / "competition"
    root.mkdir()
    photos.rename(root / "train")
    write(root / "test" / "1.png", 500)
    splits = prepared(root, tmp_path / "data")
    assert {name: len(images) for name, images in splits.items()} == {
        "train": 19,
        "validation": 5,
        "test": 6,
    }
    said = capsys.readouterr().out
    assert "test is passed over: it holds no folders of classes" in said
    assert "there is no test split: 6 training pictures" in said


def test_a_split_of_copies_alone_is_made_anew(photos, tmp_path, capsys):
    root = tmp_path / "splits"
    root.mkdir()
    photos.rename(root / "train")
    for split in ("val", "test"):
        class_folders(root / split, {"ant": 2, "bee": 2}, start=100)
    splits = prepared(root, tmp_path / "data")
    assert len(splits["test"]) == 4
    assert len(splits["validation"]) == 6
    assert "no picture is left in the validation split" in capsys.readouterr().out


def test_the_first_images_of_a_split_are_of_different_classes(tmp_path):
    root = class_folders(tmp_path / "photos", {"a": 40, "b": 40})
    train = prepared(root, tmp_path / "data")["train"]
    assert set(train.labels[:12]) == {0, 1}


def test_a_copy_in_another_split_is_left_out_of_training_and_named(tmp_path, capsys):
    root = tmp_path / "photos"
    class_folders(root / "train", {"a": 5, "b": 5})
    class_folders(root / "test", {"a": 2, "b": 2}, start=50)
    write(root / "test" / "a" / "copy.bmp", 0)  # of train/a/0.png, in another format
    splits = prepared(root, tmp_path / "data")
    kept = len(splits["train"]) + len(splits["validation"])
    assert (kept, len(splits["test"])) == (9, 5)
    assert "a/0.png left out: a copy of test/a/copy.bmp" in capsys.readouterr().out


def test_one_picture_in_two_classes_is_refused_with_both_names(photos, tmp_path):
    write(photos / "bee" / "wrong.png", 0)
    message = refusal(photos, tmp_path / "data")
    assert "ant/0.png" in message
    assert "bee/wrong.png" in message


# --------------------------------------------------------------------------------------- folders


def test_names_with_spaces_and_letters_of_any_language_are_kept(tmp_path):
    names = ["Große Ameise", "honey bee", "蜂"]
    root = class_folders(tmp_path / "ein Ordner", dict.fromkeys(names, 6))
    assert prepared(root, tmp_path / "data")["train"].classes == tuple(sorted(names))


def test_an_umlaut_of_two_letters_as_on_a_mac_is_the_same_class(tmp_path):
    root = tmp_path / "photos"
    class_folders(root / "train", {"Ka\u0308fer": 6, "b": 6})
    class_folders(root / "test", {"K\u00e4fer": 2, "b": 2}, start=50)
    assert prepared(root, tmp_path / "data")["test"].classes == ("K\u00e4fer", "b")


def test_nested_folders_and_links_belong_to_their_class_and_no_loop_is_endless(photos, tmp_path):
    write(photos / "ant" / "garden" / "2024" / "x.jpg", 77)
    write(tmp_path / "elsewhere" / "y.png", 78)
    os.symlink(tmp_path / "elsewhere", photos / "ant" / "link")
    os.symlink(photos / "ant", photos / "ant" / "loop")
    assert sum(len(images) for images in prepared(photos, tmp_path / "data").values()) == 32


def test_what_systems_leave_behind_is_passed_over(photos, tmp_path):
    for name in ("ant/._0.png", "ant/.DS_Store", "bee/Thumbs.db", "__MACOSX/ant/._0.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"rubbish")
    assert prepared(photos, tmp_path / "data")["train"].classes == ("ant", "bee")


def test_a_name_that_cannot_be_printed_is_refused_on_one_line(photos, tmp_path):
    for name in ("two\nlines", os.fsdecode(b"not UTF-8: \xff")):
        folder = write(photos / name / "0.png", 300).parent
        message = refusal(photos, tmp_path / "data")
        assert message.endswith("the name cannot be printed; rename the folder")
        assert len(message.splitlines()) == 1
        folder.rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "0.png").unlink()
        (tmp_path / "elsewhere").rmdir()


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ({}, "found: none"),
        ({"ant": 5}, "found: one, 'ant'"),
        ({"all/ant": 5, "all/bee": 5}, "set data.path to"),
        ({"test/ant": 5, "test/bee": 5}, "no folder 'train'"),
        ({"train/a": 5, "Training/a": 5, "train/b": 5}, "are the same split"),
        (
            {"train/a": 5, "train/b": 5, "test/c": 2},
            "'c' has no training picture, only in test",
        ),
        ({"ant": 2, "bee": 9}, "class 'ant' has 2 training pictures; expected at least 3"),
    ],
)
def test_folders_that_are_no_dataset_are_refused_in_one_line(tmp_path, folders, said):
    root = tmp_path / "photos"
    root.mkdir()
    for start, (name, count) in enumerate(folders.items()):
        class_folders(root, {name: count}, start=100 * start)
    message = refusal(root, tmp_path / "data")
    assert said in message
    assert len(message.splitlines()) == 1


def test_an_empty_class_is_refused_by_name(photos, tmp_path):
    (photos / "wasp").mkdir()
    assert "wasp is a class without pictures (empty)" in refusal(photos, tmp_path / "data")


def test_a_class_that_a_split_lacks_is_said(tmp_path, capsys):
    root = tmp_path / "photos"
    class_folders(root / "train", {"a": 6, "b": 6})
    class_folders(root / "test", {"a": 2}, start=50)
    prepared(root, tmp_path / "data")
    assert "class 'b' has no test picture" in capsys.readouterr().out


def test_a_thousand_classes_are_taken_and_one_more_is_refused(tmp_path):
    root = tmp_path / "photos"
    for number in range(1000):
        for copy in range(3):
            write(root / f"{number:04}" / f"{copy}.png", 3 * number + copy, shape=(8, 8, 3))
    assert len(prepared(root, tmp_path / "data")["test"].classes) == 1000
    (root / "one more").mkdir()
    assert "1001 folders; allowed: at most 1000" in refusal(root, tmp_path / "other")


def test_files_beside_the_classes_are_said(photos, tmp_path, capsys):
    write(photos / "lost.png", 500)
    prepared(photos, tmp_path / "data")
    assert "lost.png lies in no class's folder" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------- files


def test_what_is_no_photo_is_refused_by_name_or_left_out_and_said(photos, tmp_path, capsys):
    jpeg = write(photos / "ant" / "cut.jpg", 90)
    jpeg.write_bytes(jpeg.read_bytes()[:-300])
    write(photos / "ant" / "placeholder.gif", 91)
    (photos / "bee" / "notes.txt").write_text("bees")
    (photos / "bee" / "empty.jpg").touch()
    message = refusal(photos, tmp_path / "data")
    for said in ("cut.jpg: is a JPEG that is cut short", "placeholder.gif: is a GIF"):
        assert said in message
    assert "bee/notes.txt: is damaged or no image" in message
    assert "data.bad_files: skip" in message
    splits = prepared(photos, tmp_path / "data", bad_files="skip")
    assert sum(map(len, splits.values())) == 30
    assert "left out: bee/empty.jpg" in capsys.readouterr().out


def test_grey_alpha_and_16_bits_are_read_as_on_the_device(tmp_path):
    root = class_folders(tmp_path / "photos", {"b": 6})
    files = [
        write(root / "a" / "grey.png", 60, (40, 50)),
        write(root / "a" / "alpha.png", 61, (40, 50, 4)),
        write(root / "a" / "photo.jpg", 62),
        write(root / "a" / "small.png", 63, (5, 9, 3)),
    ]
    deep = picture(64).astype(np.uint16) * 257
    done, content = cv2.imencode(".png", deep)
    assert done
    files.append(root / "a" / "deep.png")
    files[-1].write_bytes(content.tobytes())
    splits = prepared(root, tmp_path / "data")
    found = {
        image.tobytes()
        for images in splits.values()
        for image, label in zip(images.pixels, images.labels, strict=True)
        if label == 0
    }
    expected = {
        fitted(read_image(path), (32, 32), stretch=False)[..., ::-1].transpose(2, 0, 1).tobytes()
        for path in files
    }
    assert found == expected


def test_stretch_takes_the_whole_picture(tmp_path):
    root = tmp_path / "photos"
    class_folders(root, {"b": 6})
    for number in range(6):
        half = np.zeros((32, 96, 3), np.uint8)
        half[:, :32] = 200 + number  # outside the square in the centre
        (root / "a").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "a" / f"{number}.png"), half)
    brightest = {}
    for resize in ("crop", "stretch"):
        train = prepared(root, tmp_path / resize, resize=resize, bad_files="skip")["train"]
        brightest[resize] = train.pixels[train.labels == 0].max()
    assert brightest["crop"] == 0
    assert brightest["stretch"] >= 200


def test_mean_and_deviation_are_those_of_the_training_pixels(photos, tmp_path):
    train = prepared(photos, tmp_path / "data")["train"]
    assert train.info.mean == pytest.approx(train.pixels.mean(axis=(0, 2, 3)), abs=0.006)
    assert train.info.std == pytest.approx(train.pixels.std(axis=(0, 2, 3)), abs=0.006)


def test_a_prepared_file_that_was_changed_is_refused(photos, tmp_path):
    prepared(photos, tmp_path / "data")
    labels = tmp_path / "data" / "test_labels.npy"
    np.save(labels, 1 - np.load(labels))
    with pytest.raises(InputError, match="the test images are not those described"):
        load_test_images(tmp_path / "data")
