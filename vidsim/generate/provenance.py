"""Where a file comes from: its settings as JSON, and the standard mark of generated media.

    .png   iTXt "comment", and an XMP packet (iTXt "XML:com.adobe.xmp")
    .jpg   comment segment, and an XMP packet (APP1)
    .gif   comment extension, and an XMP packet (application extension)
    .mp4   tag "comment", and an XMP packet (a uuid box at the end, XMP specification part 3)
    .mkv   .webm   tags "comment" and "digital_source_type"

The mark is IPTC's property DigitalSourceType, a term of cv.iptc.org/newscodes/digitalsourcetype.
"""

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
from PIL import Image

import vidsim
from vidsim.core.errors import bad

_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = _TERMS + "trainedAlgorithmicMedia"
COMPOSITE = _TERMS + "compositeWithTrainedAlgorithmicMedia"  # generated parts beside given ones

MAKER = "vidsim"  # the key that says that a comment is ours, with the version
CONTAINERS = {".mp4": "mp4", ".webm": "matroska", ".mkv": "matroska"}
_IMAGES = (".png", ".jpg", ".jpeg", ".gif")
_XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_GIF_NAME = b"XMP DataXMP"
# A reader that skips blocks by their length lands in this descending ramp and at its end.
_GIF_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    Iptc4xmpExt:DigitalSourceType="{source}" xmp:CreatorTool="{tool}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
_MARK = re.compile(rb'DigitalSourceType(?:="|>)\s*([^"<\s]+)')


def xmp_packet(source: str) -> bytes:
    """An XMP packet that says the digital source type and the program."""
    return _PACKET.format(source=source, tool=f"vidsim {vidsim.__version__}").encode()


def signed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with the program's name and version, by which `read_settings` knows them again."""
    return {MAKER: vidsim.__version__, **facts}


def append_xmp_box(path: str | os.PathLike[str], packet: bytes) -> None:
    """Appends the packet to a finished .mp4, in the box that is reserved for it."""
    with open(path, "ab") as file:
        file.write(struct.pack(">I", 24 + len(packet)) + b"uuid" + _XMP_BOX + packet)


def insert_xmp_extension(path: str | os.PathLike[str], packet: bytes) -> None:
    """Writes the packet into a finished .gif, before its first picture."""
    data = Path(path).read_bytes()
    table = 3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0
    at = 13 + table
    block = b"\x21\xff\x0b" + _GIF_NAME + packet + _GIF_TRAILER
    Path(path).write_bytes(data[:at] + block + data[at:])


def read_settings(path: str | os.PathLike[str], option: str = "--like") -> dict[str, Any]:
    """The facts that vidsim wrote into a file.

    Raises  BadInput for no file, a file of another kind, and one that vidsim did not write
    """
    path = Path(path)
    if not path.is_file():
        raise bad(option, f"no file {path}", "a file that vidsim wrote")
    comment = _comment(path, option)
    try:
        facts = json.loads(comment)
    except json.JSONDecodeError:
        facts = None
    if not isinstance(facts, dict) or MAKER not in facts:
        raise bad(option, f"{path} holds no settings of vidsim", "a file that vidsim wrote",
                  "some programs drop them when they copy or convert")  # fmt: skip
    return facts


def source_type(path: str | os.PathLike[str]) -> str | None:
    """The digital source type that a file declares, None without one."""
    path = Path(path)
    if path.suffix.lower() in (".mkv", ".webm"):
        return _tags(path, "mark").get("digital_source_type")
    found = _MARK.search(path.read_bytes())
    return found[1].decode() if found else None


def _comment(path: Path, option: str) -> str:
    ending = path.suffix.lower()
    if ending in CONTAINERS:
        return _tags(path, option).get("comment", "")
    if ending not in _IMAGES:
        raise bad(option, f"{path} ends in {ending!r}", f"{', '.join((*CONTAINERS, *_IMAGES))}")
    try:
        with Image.open(path) as image:
            comment = image.info.get("comment", "")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise bad(option, f"{path} cannot be read as an image", "a whole file") from None
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)


def _tags(path: Path, option: str) -> dict[str, str]:
    """Tags of a video file by their names in small letters; its frames are not read."""
    try:
        with av.open(str(path), format=CONTAINERS[path.suffix.lower()]) as container:
            return {name.lower(): value for name, value in container.metadata.items()}
    except (av.FFmpegError, OSError, UnicodeDecodeError):
        raise bad(option, f"{path} cannot be read as a video", "a whole file") from None
