"""Settings and the mark of generated media lie in every format and come back; others refuse."""

import json
import re
import struct
import xml.etree.ElementTree as ET

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from vidsim.core.errors import BadInput
from vidsim.generate.provenance import COMPOSITE, GENERATED, read_settings, signed, source_type
from vidsim.generate.write import write_media

ENDINGS = (".mp4", ".webm", ".mkv", ".gif", ".png", ".jpg")
FACTS = {"prompt": 'a "red" <ball> & — und Bälle', "seed": 2**62, "guidance": 3.5, "span": [0, 1]}
PROPERTY = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def _video(frames):
    return np.random.default_rng(0).integers(0, 256, (frames, 16, 24, 3), dtype=np.uint8)


def _write(folder, ending, **more):
    video = _video(1 if ending in (".png", ".jpg") else 3)
    return video, write_media(folder / f"a{ending}", video, 8, **more).path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("source", [GENERATED, COMPOSITE])
def test_settings_and_mark_come_back(tmp_path, ending, source):
    _, path = _write(tmp_path, ending, metadata=signed(FACTS), source=source)
    facts = read_settings(path)
    assert facts.pop("vidsim") and facts == FACTS
    assert source_type(path) == source


@pytest.mark.parametrize("ending", ENDINGS)
def test_unmarked_files_declare_nothing_and_pixels_do_not_depend_on_the_mark(tmp_path, ending):
    def pixels(path):
        if ending in (".gif", ".png", ".jpg"):
            with Image.open(path) as image:
                return np.stack(
                    [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)]
                )
        with av.open(str(path)) as container:
            return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])

    _, plain = _write(tmp_path, ending)
    assert source_type(plain) is None
    before = pixels(plain)
    _, marked = _write(tmp_path, ending, metadata=signed(FACTS), source=GENERATED)
    np.testing.assert_array_equal(pixels(marked), before)


def _xmp(packet):
    """The property as an XML reader finds it."""
    body = re.search(rb"<x:xmpmeta.*</x:xmpmeta>", packet, re.DOTALL)[0]
    return [e.attrib[PROPERTY] for e in ET.fromstring(body).iter() if PROPERTY in e.attrib]


def _gif_extensions(data):
    """Application extensions of a GIF by a walk over all its blocks (GIF89a, appendix A)."""
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    names, packet = [], b""
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            flags = data[at + 9]
            at += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        else:
            if data[at + 1] == 0xFF:
                names.append(data[at + 3 : at + 14])
                if names[-1] == b"XMP DataXMP":
                    packet = data[at + 14 : data.index(b"\x01\xff\xfe", at)]
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    assert at == len(data) - 1
    return names, packet


def test_readers_of_each_format_find_the_xmp_packet_where_it_belongs(tmp_path):
    for ending in (".png", ".jpg"):
        _, path = _write(tmp_path, ending, source=GENERATED)
        with Image.open(path) as image:
            found = image.info["xmp"]
        assert _xmp(found) == [GENERATED], ending
    _, path = _write(tmp_path, ".gif", source=GENERATED)
    names, found = _gif_extensions(path.read_bytes())
    assert sorted(names) == [b"NETSCAPE2.0", b"XMP DataXMP"] and _xmp(found) == [GENERATED]
    _, path = _write(tmp_path, ".mp4", source=GENERATED)
    data, at, boxes = path.read_bytes(), 0, []
    while at < len(data):  # ISO/IEC 14496-12 section 4.2: size, type, then the box
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        boxes.append((kind, data[at + 8 : at + size]))
        at += size
    assert at == len(data) and boxes[-1][0] == b"uuid"
    assert boxes[-1][1][:16].hex() == "be7acfcb97a942e89c71999491e3afac"
    assert _xmp(boxes[-1][1]) == [GENERATED]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_from_elsewhere_are_refused_in_one_line(tmp_path, ending):
    _, other = _write(tmp_path, ending, metadata={"prompt": "of another program"})
    broken = tmp_path / f"broken{ending}"
    broken.write_bytes(b"nothing of the kind")
    for path, says in ((other, "no settings of vidsim"), (broken, "cannot be read"),
                       (tmp_path / f"none{ending}", "no file")):  # fmt: skip
        with pytest.raises(BadInput, match=says) as error:
            read_settings(path)
        assert "\n" not in str(error.value) and str(error.value).startswith("--like: ")
    text = tmp_path / "a.txt"
    text.write_text(json.dumps(signed({})))
    with pytest.raises(BadInput, match="ends in '.txt'"):
        read_settings(text)
