"""Contact sheets: many videos on one still image, each as a strip of frames over its caption."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidsim.core.errors import bad

_PAPER = (250, 250, 249)
_INK = (38, 38, 36)
_FAINT = (122, 122, 118)
_GAP = 14
_LINES = 2


@dataclass(frozen=True)
class SheetConfig:
    """Layout of a contact sheet.

    strip_frames  frames shown of each video, evenly spread, first and last among them
    frame_px      longest side of a shown frame, in pixels
    columns       strips side by side; 0 chooses a sheet about as wide as high
    """

    strip_frames: int = 4
    frame_px: int = 96
    columns: int = 0

    def __post_init__(self) -> None:
        if self.strip_frames < 1 or self.frame_px < 16 or self.columns < 0:
            raise bad("SheetConfig", f"{self}", "strip_frames >= 1, frame_px >= 16, columns >= 0")


def contact_sheet(
    videos: Sequence[np.ndarray],
    captions: Sequence[str],
    config: SheetConfig = SheetConfig(),  # noqa: B008 (frozen)
) -> np.ndarray:
    """Draws the videos, each a strip of frames at its own aspect ratio with its caption below.

    videos    uint8 [T,H,W,3] each, of any size and duration
    captions  one text a video; cut with an ellipsis after two lines
    Returns   uint8 [H,W,3]
    Raises    BadInput when nothing is given or the counts differ
    """
    if not videos or len(videos) != len(captions):
        raise bad("contact sheet", f"{len(videos)} videos, {len(captions)} captions",
                  "equally many, at least one")  # fmt: skip
    font = ImageFont.load_default(12)
    strip_w = config.strip_frames * (config.frame_px + 2) - 2
    cell_w, cell_h = strip_w + _GAP, config.frame_px + 18 + 15 * _LINES + _GAP
    columns = config.columns or max(1, round(math.sqrt(len(videos) * cell_h / cell_w)))
    columns = min(columns, len(videos))
    rows = math.ceil(len(videos) / columns)
    sheet = Image.new("RGB", (columns * cell_w + _GAP, rows * cell_h + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (video_THWC, caption) in enumerate(zip(videos, captions, strict=True)):
        x, y = _GAP + i % columns * cell_w, _GAP + i // columns * cell_h
        _draw_strip(sheet, video_THWC, (x, y), config)
        T, H, W, _ = video_THWC.shape
        text_y = y + config.frame_px + 3
        draw.text((x, text_y), f"{W}x{H}, {T} frame{'s' * (T > 1)}", _FAINT, font)
        for n, line in enumerate(wrap(caption, lambda s: font.getlength(s), strip_w, _LINES)):
            draw.text((x, text_y + 15 * (n + 1)), line, _INK, font)
    return np.asarray(sheet)


def wrap(text: str, width_of, max_width: float, max_lines: int) -> list[str]:
    """Breaks a text at spaces into lines of at most max_width; an ellipsis marks what is cut.

    width_of  function str -> width in the unit of max_width
    """
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < max_lines:
        taken = 1
        while taken < len(words) and width_of(" ".join(words[: taken + 1])) <= max_width:
            taken += 1
        lines.append(" ".join(words[:taken]))
        words = words[taken:]
    cut = bool(words)
    for n, line in enumerate(lines):
        ending = "…" if cut and n == len(lines) - 1 else ""
        if width_of(line + ending) > max_width:
            while line and width_of(line + "…") > max_width:
                line = line[:-1]
            ending = "…"
        lines[n] = line + ending
    return lines


def _draw_strip(
    sheet: Image.Image, video_THWC: np.ndarray, corner: tuple[int, int], config: SheetConfig
) -> None:
    T, H, W, _ = video_THWC.shape
    scale = config.frame_px / max(H, W)
    size = (max(1, round(W * scale)), max(1, round(H * scale)))
    count = min(T, config.strip_frames)
    x, y = corner
    for t in np.unique(np.linspace(0, T - 1, count).round().astype(int)):
        method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
        frame = Image.fromarray(video_THWC[t]).resize(size, method)
        sheet.paste(frame, (x, y + config.frame_px - size[1]))
        x += size[0] + 2
