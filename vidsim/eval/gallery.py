"""One page with an example of everything a model does, made from clips of a held-out world."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from vidsim.core.errors import bad
from vidsim.eval.result import Sample, SuiteResult, View
from vidsim.eval.suites.capabilities_cases import Case, draw_cases
from vidsim.eval.suites.capabilities_edit import change
from vidsim.generate.edit import edit
from vidsim.generate.extend import animate, extend
from vidsim.generate.grow import sample_grown
from vidsim.generate.join import blend_clips, blend_prompts, join
from vidsim.generate.loop import loop_clip, loop_prompt, naive_loop
from vidsim.generate.made import Made, require_training
from vidsim.generate.model import Model
from vidsim.generate.pack import Request
from vidsim.generate.roll import WindowConfig, plan_window
from vidsim.generate.sample import SamplerConfig, lay_out, sample
from vidsim.worlds.base import World, from_spec
from vidsim.worlds.shapes.caption import CHANGES

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GalleryConfig:
    """What the page shows.

    world    specification of the world of its prompts and given clips; one object
    size     (height, width) in pixels
    frames   of a clip
    long_s   seconds of the long video
    seed     of the noise
    sampler  how clips are made
    """

    world: str = "shapes?split=heldout&seed=4&objects=1"
    size: tuple[int, int] = (64, 64)
    frames: int = 17
    long_s: float = 8.0
    seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


@dataclass(frozen=True)
class Scene:
    """What an example starts from: a model, its settings, three cases of the world and one whose
    object goes there and back."""

    model: Model
    config: GalleryConfig
    cases: tuple[Case, Case, Case]
    turning: Case

    def request(self, case: int, frames: int = 1, prompt: str | None = None) -> Request:
        """The request of a case's prompt."""
        one = self.cases[case]
        return Request(
            one.prompt if prompt is None else prompt, *self.config.size, frames, one.info.fps,
            self.config.seed + case,
        )  # fmt: skip

    def clip(self, case: int) -> np.ndarray:
        """The true clip of a case."""
        return self.cases[case].truth_THWC


def gallery(model: Model, config: GalleryConfig, progress: Progress | None = None) -> SuiteResult:
    """Makes every example. Raises BadInput when the model was not trained for one of them."""
    world, stride = from_spec(config.world), model.grid.time_stride
    for capability in ("animate", "extend forward", "extend backward", "join"):
        require_training(model, capability)
    (turning,) = draw_cases("loop", world, 1, config.size, config.frames, stride)
    scene = Scene(model, config, _cases(world, config, stride), turning)
    lay_out(model, [scene.request(i, config.frames) for i in range(3)])
    samples = []
    for number, (make, group) in enumerate(EXAMPLES):
        if progress:
            progress(group.lower(), number, len(EXAMPLES))
        for name, prompt, fps, views in make(scene):
            samples.append(Sample(name, prompt, tuple(views), fps, group, {"seed": config.seed}))
    if progress:
        progress("done", len(EXAMPLES), len(EXAMPLES))
    return SuiteResult(
        "gallery", "What the model does",
        "An example of each capability; none is picked. Given frames are clips of the held-out "
        f"world {config.world}.",
        (), tuple(samples),
        {"solver": config.sampler.solver, "steps": config.sampler.steps,
         "guidance": config.sampler.guidance.scale},
    )  # fmt: skip


Example = Iterator[tuple[str, str, float, list[View]]]


def _cases(world: World, config: GalleryConfig, stride: int) -> tuple[Case, Case, Case]:
    a, b, c = draw_cases("animate", world, 3, config.size, config.frames, stride)
    return a, b, c


def _text(scene: Scene) -> Example:
    requests = [scene.request(i, scene.config.frames) for i in range(3)]
    for i, video in enumerate(sample(scene.model, requests, scene.config.sampler)):
        yield f"text {i}", requests[i].prompt, video.fps, [View(video.video_THWC)]


def _sizes(scene: Scene) -> Example:
    """Pictures of one prompt and seed: a prototype, wide, tall, the full size, one that grew."""
    height, width = scene.config.size
    request = scene.request(0)
    names = {"prototype": (1, 1), "wide": (1, 2), "tall": (2, 1), "full size": (2, 2),
             "grown": (8, 8)}  # fmt: skip
    asked = [dataclasses.replace(request, height=height * a, width=width * b)
             for a, b in names.values()]  # fmt: skip
    made = sample_grown(scene.model, asked, scene.config.sampler)
    for name, one in zip(names, made, strict=True):  # a page draws all views of one alike
        yield name, request.prompt, one.fps, [View(one.video_THWC, name)]


def _variations(scene: Scene) -> Example:
    request = scene.request(1, scene.config.frames)
    asked = [dataclasses.replace(request, seed=request.seed + n) for n in range(4)]
    made = sample(scene.model, asked, scene.config.sampler)
    views = [View(one.video_THWC, f"seed {one.request.seed}") for one in made]
    yield "variations", request.prompt, request.fps, views


def _animate(scene: Scene) -> Example:
    for i in range(2):
        image, request = scene.clip(i)[0], scene.request(i, scene.config.frames)
        (made,) = animate(scene.model, image, [request], scene.config.sampler)
        yield f"animate {i}", request.prompt, made.fps, [View(image[None], "given"), _view(made)]


def _forward(scene: Scene) -> Example:
    half, frames = _half(scene), scene.config.frames
    for i in range(2):
        request = scene.request(i)
        (made,) = extend(scene.model, scene.clip(i)[:half], [request], frames, "forward",
                         scene.config.sampler)  # fmt: skip
        yield f"forward {i}", request.prompt, made.fps, [
            View(scene.clip(i)[:half], "given"), _view(made)
        ]  # fmt: skip


def _backward(scene: Scene) -> Example:
    half = _half(scene)
    first = scene.request(0)
    requests = [dataclasses.replace(first, seed=first.seed + n) for n in range(4)]
    made = extend(scene.model, scene.clip(0)[half:], requests, half, "backward",
                  scene.config.sampler)  # fmt: skip
    views = [_view(one, f"beginning {n + 1}") for n, one in enumerate(made)]
    yield "backward", f"four beginnings with one end: {first.prompt}", first.fps, views


def _loop(scene: Scene) -> Example:
    turning, stride = scene.turning, scene.model.grid.time_stride
    period = max(2, (scene.config.frames - 1) // stride) * stride
    request = Request(turning.prompt, *scene.config.size, period, turning.info.fps,
                      scene.config.seed)  # fmt: skip
    (loop,) = loop_prompt(scene.model, [request], scene.config.sampler)
    (naive,) = naive_loop(scene.model, [request], scene.config.sampler)
    line = f"{request.prompt} ({loop.notices[0]}; {naive.notices[0]})"
    yield "loop of a prompt", line, loop.fps, [_view(loop, "loop"), _view(naive, "merely repeated")]
    back = turning.new[1] - turning.new[0]
    one = dataclasses.replace(request, num_frames=1)
    (closed,) = loop_clip(scene.model, turning.before, [one], back, scene.config.sampler)
    yield "loop of a clip", f"{request.prompt} ({closed.notices[0]})", closed.fps, [
        View(turning.before, "given"), _view(closed, "loop")
    ]  # fmt: skip


def _join(scene: Scene) -> Example:
    stride, half = scene.model.grid.time_stride, _half(scene)
    plan = plan_window(scene.model, *scene.config.size, WindowConfig())
    gap = max(1, min(6, plan.latents - 2)) * stride
    a, b = scene.clip(0)[:half], scene.clip(2)[half:]
    request = scene.request(0)
    towards = scene.cases[2].prompt
    (made,) = join(scene.model, a, b, [request], gap, scene.config.sampler, towards=towards)
    yield "join", f"{scene.cases[0].prompt}, then {towards}", made.fps, [
        View(a, "first"), View(b, "second"), _view(made, "joined")
    ]  # fmt: skip


def _blend(scene: Scene) -> Example:
    frames, other = scene.config.frames, scene.cases[2].prompt
    request = scene.request(0, frames)
    (made,) = blend_prompts(scene.model, [request], other, scene.config.sampler)
    title = f"{request.prompt}, then {other}"
    yield "blend of prompts", title, made.fps, [_view(made)]
    (both,) = blend_clips(scene.model, scene.clip(0), scene.clip(2), [request], other, 0.7,
                          scene.config.sampler)  # fmt: skip
    yield "blend of clips", title, both.fps, [
        View(scene.clip(0), "first"), View(scene.clip(2), "second"), _view(both, "blend")
    ]  # fmt: skip


def _edit(scene: Scene) -> Example:
    video = scene.clip(1)
    for number, kind in enumerate(CHANGES):  # in turn described and requested
        prompt = change(scene.cases[1], kind, number).prompt
        request = scene.request(1, prompt=prompt)
        views = [View(video, "input")]
        for strength in (0.5, 0.7, 0.85):
            (made,) = edit(scene.model, video, [request], strength, None, scene.config.sampler)
            views.append(_view(made, f"strength {strength}"))
        yield f"edit the {kind}", prompt, request.fps, views
    request = scene.request(1, prompt=change(scene.cases[1], "background", 0).prompt)
    keep = np.zeros((1, *scene.config.size), bool)
    keep[:, :, : scene.config.size[1] // 2] = True
    (made,) = edit(scene.model, video, [request], 0.85, keep, scene.config.sampler)
    yield "edit a part", f"left half kept: {request.prompt}", request.fps, [
        View(video, "input"), _view(made, "strength 0.85")
    ]  # fmt: skip


def _long(scene: Scene) -> Example:
    request = scene.request(0)
    frames = round(scene.config.long_s * request.fps)
    if frames < 2:
        raise bad("GalleryConfig.long_s", f"{scene.config.long_s}", "two frames or more")
    (made,) = animate(
        scene.model, scene.clip(0)[0],
        [dataclasses.replace(request, num_frames=_on_grid(scene.model, frames))],
        scene.config.sampler,
    )  # fmt: skip
    seconds = len(made.video_THWC) / made.fps
    yield "long", f"{seconds:.1f} s by rolling windows: {request.prompt}", made.fps, [_view(made)]


EXAMPLES: tuple[tuple[Callable[[Scene], Example], str], ...] = (
    (_text, "Text to video"), (_sizes, "Images of any size"), (_variations, "Variations"),
    (_animate, "Animate an image"), (_forward, "Extend forward"),
    (_backward, "Extend backward"), (_loop, "Loop"), (_join, "Join"), (_blend, "Blend"),
    (_edit, "Edit"), (_long, "Long video"),
)  # fmt: skip


def _view(made: Made, label: str = "made") -> View:
    return View(made.video_THWC, label)


def _half(scene: Scene) -> int:
    """Frames of the first half of a clip, on the VAE's grid."""
    stride = scene.model.grid.time_stride
    return 1 + (scene.config.frames - 1) // (2 * stride) * stride


def _on_grid(model: Model, frames: int) -> int:
    return 1 + max(1, round((frames - 1) / model.grid.time_stride)) * model.grid.time_stride
