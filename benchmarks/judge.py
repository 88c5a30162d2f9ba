"""How good are the pictures, by figures that no recipe optimises?

For every pair of a photograph and a painting and every recipe, the first at its own content weight and the others at
several times theirs: how far the picture is from its painting in colour (sliced Wasserstein distance) and in texture
(statistics of a pyramid of Gabor filters), and how much of the photograph it keeps (structural similarity of luminance
edges). The losses of VGG19 and SqueezeNet, where their weights are given, stand beside them, marked as what recipes
know.

More likeness costs style. So recipes are compared at the likeness of the first: along the content weights, the
logarithm of a distance is interpolated over likeness, and the median ratio over pairs is given with its bootstrap
interval.
Pictures, a plane and contact sheets go to --out: a figure that says good beside a picture that looks bad is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import page
import torch
from numpy.typing import NDArray
from skimage import data
from skimage.filters import gabor_kernel, sobel
from skimage.metrics import structural_similarity
from torch import Tensor

from parallel_nst.files.bundled import bundled_style
from parallel_nst.files.images import Picture, fit, read_image, resize, write_image
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.backbones.registry import backbone_entry
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import gram_part
from parallel_nst.painting.gatys.style import measure_style
from parallel_nst.painting.stylize import stylize
from parallel_nst.painting.tiles.geometry import whole_tile
from parallel_nst.recipe import Recipe
from parallel_nst.workers.opening import resolved_dtype
from parallel_nst.workers.pool import SerialPool
from parallel_nst.workers.worker import WorkerSpec

DIRECTIONS = 64  # of colour space
QUANTILES = 512
LEVELS = 4  # of the pyramid, each half the size of the one before
ANGLES = 6
LEAST_ENERGY = 1e-4  # mean response below which a filter is silent
GREY = (0.2126, 0.7152, 0.0722)  # Rec. 709
RESAMPLES = 2000
DISTANCES = ("colour", "texture")
BOX = 300  # px, side of a picture on the contact sheet

Image = NDArray[np.float32]
"""(H, W, 3) RGB in [0, 1]."""


def colour_distance(one: Image, other: Image) -> float:
    """Sliced 2-Wasserstein distance of the two sets of colours (Rabin et al. 2011), in units of the pixel range: root
    mean square over directions of the distance between sorted projections."""
    directions = np.random.default_rng(0).normal(size=(3, DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    places = (np.arange(QUANTILES) + 0.5) / QUANTILES
    ours, theirs = (np.quantile(image.reshape(-1, 3) @ directions, places, axis=0) for image in (one, other))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))


def texture(image: Image) -> NDArray[np.float64]:
    """Logarithms of the mean and of the spread of each Gabor filter's response to luminance, over a pyramid."""
    grey, figures = (image @ np.array(GREY, np.float32)), []
    for _ in range(LEVELS):
        for angle in range(ANGLES):
            kernel = gabor_kernel(0.25, theta=math.pi * angle / ANGLES)
            parts = (cv2.filter2D(grey, cv2.CV_32F, part.astype(np.float32)) for part in (kernel.real, kernel.imag))
            energy = np.hypot(*parts)
            figures += [energy.mean(), energy.std()]
        grey = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.log(np.maximum(figures, LEAST_ENERGY))


def texture_distance(one: Image, other: Image) -> float:
    """Mean absolute difference of the logarithms: 0.1 is a tenth more or less energy, filter by filter."""
    return float(np.abs(texture(one) - texture(other)).mean())


def edges(image: Image) -> NDArray[np.float64]:
    """Sobel magnitude of blurred luminance, in units of its own root mean square: likeness is of drawing, not of
    contrast."""
    grey = cv2.GaussianBlur((image @ np.array(GREY, np.float32)).astype(np.float32), (0, 0), 1.5)
    drawn = sobel(grey)
    strong: NDArray[np.float64] = np.minimum(drawn / max(1e-6, float(np.sqrt(np.mean(drawn**2)))), 3.0)
    return strong


def likeness(one: Image, other: Image) -> float:
    """Structural similarity (Wang et al. 2004) of the edges, 1 for the same drawing."""
    return float(structural_similarity(edges(one), edges(other), data_range=3.0, gaussian_weights=True))


@dataclass(frozen=True)
class Network:
    """A backbone that looks on."""

    name: str
    backbone: Backbone

    def style_loss(self, picture: Image, painting: Image) -> float:
        """Mean over the backbone's own style layers of |G - G_s|^2 / |G_s|^2, all alike."""
        ours, theirs = self.grams(picture), self.grams(painting)
        gaps = [float((ours[n] - gram).square().sum() / gram.square().sum()) for n, gram in theirs.items()]
        return sum(gaps) / len(gaps)

    def grams(self, image: Image) -> dict[str, Tensor]:
        """Gram means by style layer."""
        reader = FeatureReader(self.backbone, backbone_entry(self.name).layers, torch.float32)
        sums = measure_style(reader, batch_of(image), whole_tile(*image.shape[:2]))
        return {name: gram_part(moments) for name, moments in sums.targets.grams.items()}

    @torch.no_grad()
    def content_loss(self, picture: Image, photograph: Image) -> float:
        """Mean square difference of the content layers' features, over their mean square."""
        names = backbone_entry(self.name).layers.content
        ours, theirs = (self.backbone(batch_of(image), names) for image in (picture, photograph))
        gaps = [float((ours[n] - theirs[n]).square().mean() / theirs[n].square().mean()) for n in names]
        return sum(gaps) / len(gaps)


def batch_of(image: Image) -> Tensor:
    """(1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@dataclass(frozen=True)
class Candidate:
    """A recipe by name. weights: the file of its backbone; None: where pnst finds it."""

    name: str
    recipe: Recipe
    weights: Path | None

    def pool(self, threads: int) -> SerialPool:
        state = load_weights(self.recipe.backbone, self.weights)
        dtype = resolved_dtype(self.recipe.dtype, "cpu")
        return SerialPool(WorkerSpec("cpu", dtype, threads, {self.recipe.backbone: state}))


@dataclass(frozen=True)
class Pair:
    """Files of a photograph and of the painting in whose manner it is painted."""

    content: Path
    style: Path

    @property
    def name(self) -> str:
        return f"{self.content.stem}-{self.style.stem}"


@dataclass(frozen=True)
class Judged:
    """A picture's figures, by name, and where it lies. factor: times the recipe's content weight."""

    candidate: str
    pair: Pair
    factor: float
    path: Path
    figures: Mapping[str, float]


def painted(candidate: Candidate, pool: SerialPool, pair: Pair, factor: float, out: Path) -> Path:
    """The picture's file, painted unless it is there already."""
    recipe = replace(candidate.recipe, content_weight=candidate.recipe.content_weight * factor)
    origin = hashlib.sha256(candidate.weights.read_bytes()).hexdigest()[:6] if candidate.weights else "own"
    path = out / f"{pair.name}-{candidate.name}-{factor:g}-{recipe.digest()}-{origin}.png"
    if not path.exists():
        picture = stylize(read_image(pair.content), read_image(pair.style), recipe, pool).picture
        write_image(path, replace(picture, alpha=None))
    return path


def figures_of(path: Path, pair: Pair, side: int, networks: Sequence[Network]) -> dict[str, float]:
    """Every figure of a picture. side: px that the longer side of the painting is reduced to."""
    picture, painting = read_image(path).pixels, read_image(pair.style)
    photograph = resize(read_image(pair.content).pixels, Size(*picture.shape[:2]))
    canvas = resize(painting.pixels, fit(painting.size, min(side, max(painting.size))))
    figures = {
        "colour": colour_distance(picture, canvas),
        "texture": texture_distance(picture, canvas),
        "likeness": likeness(picture, photograph),
    }
    for network in networks:
        figures[f"{network.name} style"] = network.style_loss(picture, canvas)
        figures[f"{network.name} content"] = network.content_loss(picture, photograph)
    return figures


def judge(
    candidate: Candidate,
    pairs: Sequence[Pair],
    factors: Sequence[float],
    networks: Sequence[Network],
    options: argparse.Namespace,
) -> list[Judged]:
    """A candidate's pictures of every pair, at its content weight times each factor."""
    pool, results = candidate.pool(options.threads), []
    for pair, factor in itertools.product(pairs, factors):
        path = painted(candidate, pool, pair, factor, options.out)
        figures = figures_of(path, pair, options.size, networks)
        print(
            candidate.name, pair.name, factor, *(f"{name} {value:.3f}" for name, value in figures.items()), flush=True
        )
        results.append(Judged(candidate.name, pair, factor, path, figures))
    return results


def curve_of(results: Sequence[Judged], candidate: str, pair: Pair) -> list[Judged]:
    """A candidate's pictures of a pair, by content weight."""
    curve = [result for result in results if result.candidate == candidate and result.pair == pair]
    return sorted(curve, key=lambda result: result.factor)


def middle(curve: Sequence[Judged]) -> Judged:
    """The picture at the middle content weight."""
    return curve[len(curve) // 2]


def at_equal(along: str, curve: Sequence[Judged], wanted: float, name: str) -> float:
    """A distance where another figure is as wanted, its logarithm interpolated along the content weights; beyond their
    ends, and where there is one content weight only, the nearest picture's."""
    x = np.array([point.figures[along] for point in curve])
    y = np.log([max(point.figures[name], 1e-9) for point in curve])
    order = np.argsort(x)
    return float(np.exp(np.interp(wanted, x[order], y[order])))


def ratios(results: Sequence[Judged], name: str, first: str, figure: str, along: str = "likeness") -> list[float]:
    """A candidate's distance over the first one's, where it is as near to the photograph as the first one's picture, by
    pair. along: the figure that this is told by."""
    values = []
    for pair in dict.fromkeys(result.pair for result in results):
        reference = middle(curve_of(results, first, pair)).figures
        distance = at_equal(along, curve_of(results, name, pair), reference[along], figure)
        values.append(distance / max(reference[figure], 1e-9))
    return values


def interval(values: Sequence[float]) -> str:
    """Median, and its 95 % bootstrap interval over pairs."""
    samples = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(samples, axis=1), (2.5, 97.5))
    return f"{np.median(values):.2f} ({low:.2f} to {high:.2f})"


def median_of(results: Sequence[Judged], candidate: str, factor: float, figure: str) -> float:
    """Over pairs."""
    mine = [r.figures[figure] for r in results if r.candidate == candidate and r.factor == factor]
    return float(np.median(mine))


def factors_of(results: Sequence[Judged], candidate: str) -> list[float]:
    """At which a candidate was painted."""
    return sorted({result.factor for result in results if result.candidate == candidate})


def plane(results: Sequence[Judged], names: Sequence[str], path: Path) -> None:
    """Distances against likeness, a line for each candidate: medians over pairs, content weight by content weight."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    for axes, distance in zip(figure.subplots(1, len(DISTANCES)), DISTANCES, strict=True):
        for name in names:
            factors = factors_of(results, name)
            ends = [[median_of(results, name, f, kind) for f in factors] for kind in ("likeness", distance)]
            axes.plot(*ends, "o-", label=name)
        axes.set_xlabel("likeness to the photograph")
        axes.set_ylabel(f"{distance} distance to the painting")
    axes.legend(fontsize="small")
    figure.savefig(path)


def sheet(results: Sequence[Judged], names: Sequence[str], path: Path) -> None:
    """A row a pair: photograph, painting, each candidate's picture at its middle content weight."""
    rows = []
    for pair in dict.fromkeys(result.pair for result in results):
        files = [pair.content, pair.style, *(middle(curve_of(results, name, pair)).path for name in names)]
        rows.append(np.concatenate([boxed(read_image(file).pixels) for file in files], 1))
    write_image(path, Picture(np.concatenate(rows, 0)))


def boxed(image: Image) -> Image:
    """Scaled into a white square."""
    small = resize(image, fit(Size(*image.shape[:2]), BOX - 4))
    box = np.ones((BOX, BOX, 3), np.float32)
    box[: small.shape[0], : small.shape[1]] = small
    return box


def own_pairs(folder: Path) -> list[Pair]:
    """A portrait, an animal's face close up, a cup, a rocket in the sky and a page of text, from scikit-image, each in
    the manner of each bundled painting."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = []
    for name in ("astronaut", "chelsea", "coffee", "rocket", "page"):
        image = getattr(data, name)()
        pixels = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
        contents.append(folder / f"{name}.png")
        write_image(contents[-1], Picture((pixels / np.float32(255)).astype(np.float32)))
    return [Pair(*files) for files in itertools.product(contents, sorted(bundled_style().parent.glob("*.jpg")))]


def named(text: str) -> tuple[str, Path]:
    """NAME=FILE."""
    name, _, file = text.partition("=")
    if not (name and file):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, Path(file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, nargs=2, action="append", default=[], metavar=("PHOTOGRAPH", "PAINTING"))
    parser.add_argument("--recipe", type=named, action="append", default=[], metavar="NAME=TOML")
    parser.add_argument("--weights", type=named, action="append", default=[], metavar="NAME=FILE", help="of a recipe")
    parser.add_argument("--network", type=named, action="append", default=[], metavar="NAME=FILE", help="that looks on")
    parser.add_argument("--page", default="", help="name of the page; judge unless given")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="times the content weight")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    pairs = [Pair(*files) for files in options.pair] or own_pairs(options.out / "photographs")
    files = dict(options.weights)
    candidates = [Candidate(n, replace(Recipe.load(p), size=options.size), files.get(n)) for n, p in options.recipe]
    candidates = candidates or [Candidate("default", Recipe(size=options.size), None)]
    networks = [Network(name, build_backbone(name, load_weights(name, path))) for name, path in options.network]
    results = judge(candidates[0], pairs, [1.0], networks, options)
    for candidate in candidates[1:]:
        results += judge(candidate, pairs, options.factors, networks, options)
    names = [candidate.name for candidate in candidates]
    sheet(results, names, options.out / "sheet.png")
    plane(results, names, options.out / "plane.png")
    title, parts = "Pictures, judged by what no recipe optimises", report(results, candidates, options)
    print(page.write(__file__, title, parts, name=options.page))


def report(results: Sequence[Judged], candidates: Sequence[Candidate], options: argparse.Namespace) -> list[str]:
    """What the page says."""
    names, every = [candidate.name for candidate in candidates], list(results[0].figures)
    judging = [figure for figure in every if figure in DISTANCES or figure.endswith("style")]
    measures = [(figure, "likeness") for figure in judging]
    measures += [(f"{name} style", f"{name} content") for name, _ in options.network]
    compared = [[n, *(interval(ratios(results, n, names[0], f, along)) for f, along in measures)] for n in names]
    medians = [
        [n, f"{factor:g}", *(f"{median_of(results, n, factor, figure):.3f}" for figure in every)]
        for n in names
        for factor in factors_of(results, n)
    ]
    pairs = sorted({result.pair.name for result in results})
    return [
        f"{len(pairs)} photographs and paintings ({', '.join(pairs)}) at {options.size} px.",
        f"Ratios to `{names[0]}` at its likeness to the photograph, or at its content loss: median over pairs, 95 % "
        "bootstrap interval. Losses of networks are known to recipes that use them, or were taught by them, and judge "
        "nothing alone.",
        page.table(
            ["", *(figure if along == "likeness" else f"{figure} at its {along}" for figure, along in measures)],
            compared,
        ),
        "Medians over pairs:",
        page.table(["", "times the content weight", *every], medians),
        *(f"`{c.name}`:\n\n```toml\n{c.recipe.to_toml()}```" for c in candidates),
    ]


if __name__ == "__main__":
    main()
