"""TFDS data sets, read by record number through `tfds.data_source`, without tensorflow.

    tfds:NAME[/CONFIG][:VERSION][:SPLIT][?pixels=F&caption=F&fps=N&data_dir=D&download=1]

pixels    feature with the picture: an image, a sequence of images, or a video (found when unique)
caption   feature with the description: text, a sequence of texts, or a class label, whose name is
          the caption (found when named caption, text, description, or label)
fps       frames a second of videos, which TFDS does not store; needed for videos
data_dir  where the prepared data set is (else TFDS's own place)
download  1 lets TFDS download and prepare the data set as ArrayRecord files; else it must be there
"""

import contextlib
import importlib.util
import re
import threading
import types
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np

from vidsim.core.errors import bad, nearest
from vidsim.data.decode import resize_crop
from vidsim.data.frames import over_black
from vidsim.data.record import Caption, ClipRecord, Source
from vidsim.data.tokenizer import clean

_SPEC = re.compile(
    r"(?P<name>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?(:(?P<split>[^?]+))?"
)
OPTIONS = ("pixels", "caption", "fps", "data_dir", "download")
_CAPTION_NAMES = ("caption", "captions", "text", "description", "label", "labels")


class TfdsSource(Source):
    """Records of one split. The data set is opened again in every process that reads."""

    def __init__(self, spec: str, data_dir: str | None = None) -> None:
        self.ignored = {}
        self.text = spec.removeprefix("tfds:")
        head, _, query = self.text.partition("?")
        match = _SPEC.fullmatch(head)
        if match is None:
            raise bad("tfds", f"unreadable {head!r}", "tfds:NAME[/CONFIG][:VERSION][:SPLIT][?…]")
        self.parts = match.groupdict()
        self.options = dict(parse_qsl(query))
        for option in self.options:
            if option not in OPTIONS:
                raise bad("tfds", f"unknown option {option!r}", nearest(option, OPTIONS))
        try:
            self.fps = float(self.options.get("fps", 0))
        except ValueError:
            raise bad("tfds", f"fps={self.options['fps']!r}", "a number") from None
        self.data_dir = self.options.pop("data_dir", data_dir)
        self.download = self.options.pop("download", "0") == "1"
        # Where the data set lies differs between machines: it is kept apart, outside the hash.
        query = urlencode(sorted(self.options.items()))
        stored = f"tfds:{head}" + (f"?{query}" if query else "")
        self.spec = {"kind": "tfds", "spec": stored, "data_dir": self.data_dir}
        self._lock = threading.Lock()
        self._data: Any = None

    def _open(self) -> Any:
        with self._lock:
            if self._data is None:
                self._data = _open_data(self.parts, self.data_dir, self.download)
                features = self._data.dataset_info.features
                self._pixels = _pixel_feature(features, self.options.get("pixels"))
                self._caption = _caption_feature(features, self.options.get("caption"))
                self._name = self._data.dataset_info.full_name
        return self._data

    def candidates(self) -> Iterator[int]:
        yield from range(len(self._open()))

    def name(self, candidate: int) -> str:
        return f"{self.text.partition('?')[0]}, record {candidate}"

    def examine(self, candidate: int) -> ClipRecord:
        data = self._open()
        example = data[candidate]
        video_THWC = self._video(example, candidate)
        frames, height, width, _ = video_THWC.shape
        if frames > 1 and self.fps <= 0:
            raise bad("tfds", "TFDS stores no rate of videos", "", "add ?fps=N to the spec")
        split = self.parts["split"] or "train"
        return ClipRecord(
            clip_id=f"{self._name}/{split}/{candidate}",
            source=str(candidate),
            start_s=0.0,
            num_frames=frames,
            fps=self.fps if frames > 1 else 1.0,
            height=height,
            width=width,
            captions=self._captions(example),
            extra={"kind": "video" if frames > 1 else "image"},
        )

    def read(
        self,
        record: ClipRecord,
        first: int,
        count: int,
        stride: int = 1,
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        number = int(record.source)
        data = self._open()
        if not 0 <= number < len(data):
            raise bad("tfds", f"record {number}", f"below {len(data)}", "index it again")
        video_THWC = self._video(data[number], number)[first : first + stride * count : stride]
        if len(video_THWC) < count:
            raise bad("tfds", f"record {number} is shorter than indexed", "", "index it again")
        return resize_crop(video_THWC, resize, crop, self.name(number))

    def _video(self, example: dict[str, Any], number: int) -> np.ndarray:
        """uint8 RGB [T, H, W, 3] of an example."""
        where, value = self.name(number), example[self._pixels]
        if isinstance(value, list):
            if len({np.shape(frame) for frame in value}) > 1:
                raise bad(where, "frames differ in size")
            value = np.stack(value) if value else np.empty((0, 1, 1, 3), np.uint8)
        pixels = np.asarray(value)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4):
            raise bad(where, f"{pixels.dtype} {pixels.shape}", "uint8 with 1, 3 or 4 channels")
        if 0 in pixels.shape:
            raise bad(where, "holds no frame")
        if pixels.shape[-1] == 4:
            return over_black(pixels)
        return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels

    def _captions(self, example: dict[str, Any]) -> tuple[Caption, ...]:
        if self._caption is None:
            return ()
        values, names = example[self._caption], None
        feature = self._data.dataset_info.features[self._caption]
        if getattr(feature, "names", None) is not None:
            names = feature.int2str
        kind = "given" if names is None else "label"
        items = values if isinstance(values, list | tuple) or np.ndim(values) else [values]
        texts = [names(int(v)).replace("_", " ") if names else _text(v) for v in items]
        return tuple(Caption(clean(text), kind) for text in texts if clean(text))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _open_data(parts: dict[str, str | None], data_dir: str | None, download: bool) -> Any:
    import tensorflow_datasets as tfds  # takes half a second; only tfds: specs need it

    name = f"{parts['name']}/{parts['config']}" if parts["config"] else str(parts["name"])
    name += f":{parts['version']}" if parts["version"] else ""
    split = parts["split"] or "train"
    prepare = {"download_and_prepare_kwargs": {"file_format": "array_record"}} if download else {}
    try:
        with _video_without_tensorflow():
            return tfds.data_source(
                name, split=split, data_dir=data_dir, download=download, **prepare
            )
    except tfds.core.DatasetNotFoundError:
        allowed = "a name that TFDS knows or has prepared"
        raise bad("tfds", f"no data set {name!r}", allowed) from None
    except (NotImplementedError, AssertionError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        change = "prepare it with file_format='array_record' in data_dir=…, or add download=1"
        raise bad("tfds", f"{name} split {split!r} cannot be read: {reason}", "", change) from None
    except ModuleNotFoundError as error:
        raise bad("tfds", f"{name} needs the module {error.name}", "", "install it") from None


@contextlib.contextmanager
def _video_without_tensorflow() -> Iterator[None]:
    """Lets TFDS describe a Video feature where tensorflow is not installed.

    `tfds.features.Video` asks tensorflow for one thing, to turn a dtype into a dtype; images and
    sequences of images do without. Reading needs no tensorflow at all.
    """
    from tensorflow_datasets.core.features import video_feature

    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    real = video_feature.tf
    as_dtype = types.SimpleNamespace(as_dtype=lambda dtype: np.dtype(dtype).type)
    video_feature.tf = types.SimpleNamespace(dtypes=as_dtype)
    try:
        yield
    finally:
        video_feature.tf = real


def _pixel_feature(features: Any, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in features:
            raise bad("tfds", f"no feature {wanted!r}", nearest(wanted, features))
        return wanted
    found = [name for name, feature in features.items() if _is_pixels(feature)]
    if len(found) != 1:
        what = f"features with pictures: {', '.join(found) or 'none'}"
        raise bad("tfds", what, f"of {', '.join(features)}", "add ?pixels=FEATURE")
    return found[0]


def _is_pixels(feature: Any) -> bool:
    kinds = {cls.__name__ for cls in type(feature).__mro__}
    if "Sequence" in kinds:
        return _is_pixels(feature.feature)
    return "Image" in kinds


def _caption_feature(features: Any, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in features:
            raise bad("tfds", f"no feature {wanted!r}", nearest(wanted, features))
        return wanted
    return next((name for name in _CAPTION_NAMES if name in features), None)
