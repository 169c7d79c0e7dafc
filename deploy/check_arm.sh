#!/usr/bin/env bash
# Show that the models and classify.py do the same on a 64-bit ARM processor as on this x86 PC.
#
#   deploy/check_arm.sh [--images FOLDER] MODEL...     e.g. deploy/check_arm.sh models/*.onnx
#
# Runs classify.py natively and under qemu's emulation of a Cortex-A72 (Raspberry Pi 4), with every
# engine that this OpenCV has, and compares classes and logits. This checks what is computed, not how fast.
#
# Reads   the models; FOLDER, or else 48 images of those that training holds out (data/cifar10)
# Writes  build/check_arm only: an emulator and an arm64 Python of Debian 12 (unpacked, nothing is
#         installed), the aarch64 wheels of deploy/requirements.txt, the outputs of each run
# Needs   Debian 12 on x86-64, or its kin with DEBIAN_MIRROR set to the address of a mirror of Debian;
#         apt and debian-archive-keyring; a python that has numpy
#         and OpenCV of the pinned versions (source .venv/bin/activate); about 600 MB of disk
# Exits   0 when all classes agree; 1 when one does not; 2 when something is missing
set -euo pipefail
shopt -s nullglob

here=$(cd "$(dirname "$0")" && pwd)
work=$here/../build/check_arm
mkdir -p "$work"
work=$(cd "$work" && pwd)
root=$work/root
count=48

fail() {
	echo "error: $*" >&2
	exit 2
}

# fetch_packages: qemu for this PC, and what Python needs on arm64, through an apt of our own: the
# system's list of architectures and packages stays as it is.
fetch_packages() {
	local apt=$work/apt keys=/usr/share/keyrings/debian-archive-keyring.gpg
	command -v apt-get dpkg-deb >/dev/null || fail "apt-get is missing; expected Debian or its kin"
	[ -e "$keys" ] || fail "$keys is missing; install debian-archive-keyring"
	local mirror=${DEBIAN_MIRROR:-$(system_mirror)}
	[ -n "$mirror" ] || fail "this system's apt names no mirror of Debian 12; set DEBIAN_MIRROR to one"
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$work/debs"
	: >"$apt/status"
	echo "deb [arch=amd64,arm64 signed-by=$keys] $mirror bookworm main" >"$apt/sources.list"
	cat >"$apt/apt.conf" <<-CONF
		Dir::Etc::SourceList "$apt/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::State "$apt";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt/cache";
		APT::Architectures { "amd64"; "arm64"; };
		APT::Sandbox::User "";
		Acquire::Languages "none";
	CONF
	(
		export APT_CONFIG=$apt/apt.conf
		cd "$work/debs"
		apt-get --quiet=2 update
		apt-get --quiet=2 download qemu-user-static:amd64 \
			{libc6,libgcc-s1,libstdc++6,zlib1g,libexpat1,libffi8}:arm64 \
			{python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib}:arm64
	) || fail "the Debian packages could not be fetched (see above); is there a network?"
}

# system_mirror: where this system's apt has Debian 12's main packages from; nothing if it has not.
system_mirror() {
	# shellcheck disable=SC2016  # apt fills it in, not the shell
	apt-get indextargets --format '$(REPO_URI)' \
		'Created-By: Packages' 'Codename: bookworm' 'Component: main' | sed -n 1p
}

# fetch_wheels: the versions that deploy/requirements.txt names, for Python 3.11 on aarch64.
fetch_wheels() {
	local versions
	mapfile -t versions < <(pinned_versions)
	python -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/wheels" \
		--python-version 3.11 --implementation cp --abi cp311 --abi abi3 \
		--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
		--platform manylinux2014_aarch64 "${versions[@]}" ||
		fail "the aarch64 wheels could not be fetched (see above); is there a network?"
}

# pinned_versions: numpy==... opencv-python-headless==..., those for Python 3.11.
pinned_versions() {
	sed -E -e '/python_version *</d' -e 's/[ ;#].*//' "$here/requirements.txt"
}

unpack() {
	local unpacked=$root.part package
	rm -rf "$unpacked"
	mkdir -p "$unpacked/packages"
	for package in "$work"/debs/*.deb; do dpkg-deb -x "$package" "$unpacked"; done
	for package in "$work"/wheels/*.whl; do python -m zipfile -e "$package" "$unpacked/packages"; done
	pinned_versions >"$unpacked/versions"
	rm -rf "$root" "$work/debs" "$work/wheels" "$work/apt"
	mv "$unpacked" "$root"
}

# make_images: the last images of the last training file, which every run holds out, as PNG.
make_images() {
	local records=$here/../data/cifar10/data_batch_5.bin
	[ -e "$records" ] || fail "$records is missing; run 'dvc repro prepare' or give --images FOLDER"
	rm -rf "$work/images"
	mkdir -p "$work/images"
	python - "$records" "$work/images" "$count" <<-PYTHON
		import sys
		from pathlib import Path
		import cv2
		import numpy as np

		records = np.fromfile(sys.argv[1], np.uint8).reshape(-1, 3073)[-int(sys.argv[3]):]
		for number, record in enumerate(records):  # the label, then the planes R, G and B
		    rgb = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
		    cv2.imwrite(str(Path(sys.argv[2]) / f"{number:04d}.png"), rgb[..., ::-1])
	PYTHON
}

on_arm() {
	PYTHONPATH=$root/packages PYTHONDONTWRITEBYTECODE=1 \
		"$root/usr/bin/qemu-aarch64-static" -cpu cortex-a72 -L "$root" \
		"$root/usr/bin/python3.11" "$@"
}

images=
if [ "${1:-}" = --images ]; then
	[ $# -ge 2 ] || fail "--images needs a folder"
	images=$2
	shift 2
fi
[ $# -ge 1 ] || fail "no model is named; e.g. deploy/check_arm.sh models/*.onnx"
[ "$(uname -m)" = x86_64 ] || fail "this is $(uname -m); expected x86_64, which emulates ARM"
native=$(python -c 'import cv2, numpy; print(numpy.__version__, cv2.__version__)') ||
	fail "this python has no numpy or OpenCV; run 'source .venv/bin/activate' first"
if [ ! -e "$root/versions" ] || ! diff -q "$root/versions" <(pinned_versions) >/dev/null; then
	echo "fetching an emulator and an arm64 Python into $work ..." >&2
	fetch_packages
	fetch_wheels
	unpack
fi
if [ -z "$images" ]; then
	make_images
	images=$work/images
fi
engines=$(python -c 'import cv2; print(*[e for e in ("new", "classic") if hasattr(cv2.dnn, "ENGINE_" + e.upper())])')
emulated=$(on_arm -c 'import cv2, numpy; print(numpy.__version__, cv2.__version__)')
[ "$native" = "$emulated" ] ||
	fail "numpy and OpenCV are $native here and $emulated in the emulation; expected the same"

status=0
for model in "$@"; do
	for engine in $engines; do
		name=$(basename "$model" .onnx)_$engine
		python "$here/classify.py" "$model" "$images" --engine "$engine" --threads 1 --json \
			>"$work/$name.x86.jsonl" 2>"$work/log" || { cat "$work/log" >&2; exit 2; }
		on_arm "$here/classify.py" "$model" "$images" --engine "$engine" --threads 1 --json \
			>"$work/$name.arm.jsonl" 2>"$work/log" || { cat "$work/log" >&2; exit 2; }
		printf '%s, engine %s: ' "$model" "$engine"
		python "$here/compare_outputs.py" "$work/$name.x86.jsonl" "$work/$name.arm.jsonl" ||
			{ [ $? = 1 ] && status=1; } || exit 2
	done
done
exit $status
