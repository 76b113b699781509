"""TFDS data sets: one built on the spot, one of TFDS's own mocked builders; no tensorflow."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data import media_files as media
from vidsim.core.errors import BadInput
from vidsim.data.index import ClipIndex, build_index
from vidsim.data.sources import open_source

tfds = pytest.importorskip("tensorflow_datasets")

LENGTHS = (4, 1, 6)


def png(pixels):
    # Encoding arrays is what TFDS needs tensorflow for; bytes it stores as they are.
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    stream.seek(0)
    return stream


def video_of(i):
    return media.gradient(LENGTHS[i], 20 + 2 * i, 30)


class TinyClips(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    code_path = None  # TFDS would look for files beside an importable module

    def _info(self):
        features = {
            "clip": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            "mask": tfds.features.Image(shape=(None, None, 1)),
            "caption": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["red_ball", "blue_cube"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i in range(len(LENGTHS)):
            video = video_of(i)
            yield (
                i,
                {
                    "clip": [png(frame) for frame in video],
                    "mask": png(video[0, ..., 0]),
                    "caption": f"clip  number {i}",
                    "label": i % 2,
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = TinyClips(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return folder


def in_order(index):
    """Rows of the index by the length of their clips: TFDS shuffles when it prepares."""
    return [list(index.num_frames).index(length) for length in LENGTHS]


def test_a_prepared_data_set_is_indexed_and_read(prepared, tmp_path):
    spec = f"tfds:tiny_clips:train?pixels=clip&fps=12&data_dir={prepared}"
    report = build_index(spec, tmp_path / "i.parquet", workers=2)
    assert (report.clips, report.images, report.bad) == (3, 1, 0)
    index = ClipIndex.open(tmp_path / "i.parquet")
    for i, row in enumerate(in_order(index)):
        source = video_of(i)
        assert (index.num_frames[row], index.height[row], index.width[row]) == source.shape[:3]
        assert index.fps[row] == (12.0 if LENGTHS[i] > 1 else 1.0)
        assert [(c.text, c.kind) for c in index.captions(row)] == [(f"clip number {i}", "given")]
        np.testing.assert_array_equal(index.read(row), source)
        last = LENGTHS[i] - 1
        np.testing.assert_array_equal(
            index.read(row, last, 1, crop=(2, 3, 9, 7))[0], source[last, 2:11, 3:10]
        )
    # The hash does not know where the data set lies.
    moved = tmp_path / "moved"
    shutil.copytree(prepared, moved)
    report = build_index(spec.replace(str(prepared), str(moved)), tmp_path / "j.parquet")
    assert report.hash == index.hash
    assert sorted(index.clip_id) == [f"tiny_clips/1.2.0/train/{k}" for k in range(3)]


def test_labels_become_captions_by_name(prepared, tmp_path):
    spec = f"tfds:tiny_clips:1.2.0:test[:2]?pixels=mask&caption=label&data_dir={prepared}"
    build_index(spec, tmp_path / "i.parquet")
    index = ClipIndex.open(tmp_path / "i.parquet")
    assert len(index) == 2
    found = {index.captions(i)[0].text for i in range(2)}
    assert found <= {"red ball", "blue cube"} and index.kinds == ("label",)
    for i in range(2):
        video = index.read(i)
        original = next(k for k in range(3) if video.shape[1] == 20 + 2 * k)
        np.testing.assert_array_equal(video[0], np.repeat(video_of(original)[0, ..., :1], 3, -1))


def test_a_stored_video_feature_needs_no_tensorflow(prepared, tmp_path):
    """The same records under the description that TFDS writes for tfds.features.Video."""
    folder = tmp_path / "tiny_clips" / "1.2.0"
    folder.mkdir(parents=True)
    for path in (prepared / "tiny_clips" / "1.2.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    described = json.loads((folder / "features.json").read_text())
    clip = described["featuresDict"]["features"]["clip"]
    clip.clear()
    clip["pythonClassName"] = "tensorflow_datasets.core.features.video_feature.Video"
    clip["video"] = {
        "shape": {"dimensions": ["-1", "-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "png",
    }  # fmt: skip
    (folder / "features.json").write_text(json.dumps(described))
    # In a fresh process: this one knows the builder's class and would describe it by that.
    code = (
        "import sys; from vidsim.data.index import ClipIndex, build_index;"
        f"here = '{tmp_path}'; out = here + '/i.parquet';"
        "spec = 'tfds:tiny_clips?pixels=clip&fps=5&data_dir=' + here;"
        "build_index(spec, out); i = ClipIndex.open(out);"
        "print(sorted(i.num_frames.tolist()), i.read(0).shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("[1, 4, 6] (") and done.stdout.strip().endswith("False")


def test_a_mocked_builder_of_tfds(tmp_path):
    with tfds.testing.mock_data(num_examples=7):
        report = build_index("tfds:mnist:test", tmp_path / "i.parquet")
        index = ClipIndex.open(tmp_path / "i.parquet")
        assert (report.clips, report.images) == (7, 7)
        for i in range(7):
            example = tfds.data_source("mnist", split="test")[i]
            np.testing.assert_array_equal(index.read(i)[0], np.repeat(example["image"], 3, -1))
            assert index.captions(i)[0].text == str(example["label"])
        assert index.clip_id[0].startswith("mnist/") and index.clip_id[0].endswith("/test/0")


def test_what_cannot_be_read_is_explained(prepared, tmp_path):
    out = tmp_path / "i.parquet"
    here = f"data_dir={prepared}"
    for spec, reason in (
        ("tfds:", "unreadable ''; tfds:NAME"),
        (f"tfds:tiny_clips?pixel=clip&{here}", "unknown option 'pixel'; did you mean 'pixels'"),
        (f"tfds:tiny_clips?fps=fast&{here}", "fps='fast'; a number"),
        (f"tfds:tiny_clips?{here}", "features with pictures: clip, mask; .* add .pixels=FEATURE"),
        (f"tfds:tiny_clips?pixels=clips&{here}", "no feature 'clips'; did you mean 'clip'"),
        (f"tfds:tiny_clips?pixels=clip&caption=titel&{here}", "no feature 'titel'"),
        (f"tfds:tiny_clips:valid?{here}", "split 'valid' cannot be read: Unknown split 'valid'"),
        (f"tfds:no_such_set_at_all?{here}", "no data set 'no_such_set_at_all'"),
        (
            f"tfds:mnist?{here}",
            "mnist split 'train' cannot be read: .* prepare it with file_format",
        ),
    ):
        with pytest.raises(BadInput, match=reason):
            build_index(spec, out)
        assert not out.exists()
    # Videos without a rate are bad clips, images among them are fine.
    report = build_index(f"tfds:tiny_clips?pixels=clip&{here}", out)
    assert (report.clips, report.bad) == (1, 2)
    assert "add ?fps=N to the spec" in report.bad_path.read_text()


def test_the_data_room_imports_no_tensorflow():
    code = (
        "import sys, pkgutil, importlib, vidsim.data as room;"
        "names = [m.name for m in pkgutil.iter_modules(room.__path__)];"
        "[importlib.import_module(f'vidsim.data.{name}') for name in names];"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


def test_listing_names_the_record(prepared):
    source = open_source(f"tfds:tiny_clips:train?pixels=clip&data_dir={prepared}", ".")
    assert source.name(2) == "tiny_clips:train, record 2"
