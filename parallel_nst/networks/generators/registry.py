"""Generators by name: styles that come with the package, published ones that are fetched on first use and verified, and
published ones that a user has to fetch, because nobody has published a digest to verify them by.

Without PyTorch: a list of names is quick.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput, BadWeights
from parallel_nst.files import digests
from parallel_nst.files.bundled import STYLES as PAINTINGS
from parallel_nst.networks.weights.download import cache_folder, fetched

STYLES = Path(__file__).parents[1] / "weights" / "styles"  # one .safetensors a style, named by it
CYCLEGAN = "http://efrosgans.eecs.berkeley.edu/cyclegan/pretrained_models/"
EXAMPLES = "https://www.dropbox.com/s/lrvwfehqdcxoza8/saved_models.zip?dl=1"


@dataclass(frozen=True)
class Published:
    """Files that are downloaded and verified. address: of the folder they lie in, with a slash at the end.
    digests: SHA-256 of each file, whole."""

    about: str
    address: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Named:
    """A name that `--model` knows. state: bundled; in cache; download, on first use; or by hand, by the user.
    address: where its files come from; empty for bundled ones."""

    name: str
    about: str
    state: str
    address: str = ""


PUBLISHED = {
    "microast": Published(
        "MicroAST: any style picture",
        "https://raw.githubusercontent.com/EndyWon/MicroAST/d2796c7dbf01dbc29ed35b11675d87fcc640f969/models/",
        {
            "content_encoder_iter_160000.pth.tar": "c8d895c0eec52507c157e102fab217c37f0c399ef3e168ef8b0b2677714660a4",
            "style_encoder_iter_160000.pth.tar": "94f6b3fa386828692c20809a0af8bd0eba9c04e90a7d8842086976e4d223c5af",
            "modulator_iter_160000.pth.tar": "8588055baf7d5ad8398d595d5518c6f030e3ff8dbb6007a7c1779776e11da28b",
            "decoder_iter_160000.pth.tar": "32e04a46b953fd9f94ec9e20f351511305a5260e000c18f9aef6570d5f1e23d9",
        },
    )
}
BY_HAND = {  # name -> what it is, address; what scripts of the official projects download
    **{
        name: ("CycleGAN", f"{CYCLEGAN}{name}.pth")
        for name in (
            "style_monet style_vangogh style_cezanne style_ukiyoe monet2photo horse2zebra zebra2horse apple2orange "
            "orange2apple summer2winter_yosemite winter2summer_yosemite iphone2dslr_flower sat2map map2sat "
            "cityscapes_photo2label cityscapes_label2photo facades_photo2label facades_label2photo"
        ).split()
    },
    **dict.fromkeys("candy mosaic rain_princess udnie".split(), ("PyTorch examples, in a zip archive", EXAMPLES)),
}


def bundled() -> dict[str, Path]:
    """Styles that come with the package, by name, that of the default painting first."""
    files = sorted(STYLES.glob("*.safetensors"), key=lambda path: (path.stem != PAINTINGS[0], path.stem))
    return {path.stem: path for path in files}


def default_model() -> str | None:
    """The bundled style to use when none is named: the first; None where none is bundled."""
    return next(iter(bundled()), None)


def named_models() -> list[Named]:
    """All names: bundled, published and verified, published and to be fetched by hand."""
    known = [Named(name, "bundled style", "bundled") for name in bundled()]
    for name, model in PUBLISHED.items():
        there = all((cache_folder() / name / file).exists() for file in model.digests)
        known.append(Named(name, model.about, "in cache" if there else "download", model.address))
    return known + [Named(name, about, "by hand", address) for name, (about, address) in BY_HAND.items()]


def resolve(text: str) -> Path | list[Path]:
    """The files that a name or path means, fetched if need be. Where both exist, a path wins when it has a suffix or a
    separator, else the name. BadInput, in one line, for what is neither or cannot be fetched."""
    path, is_path = Path(text), bool(Path(text).suffix) or "/" in text or "\\" in text
    if text and is_path and path.exists():
        return path
    if text in bundled():
        return bundled()[text]
    if text in PUBLISHED:
        return fetched_files(text)
    if text and path.exists():
        return path
    if text in BY_HAND:
        about, address = BY_HAND[text]
        raise BadInput(
            f"{text} ({about}) has no published digest to verify a download by; download {address} yourself and pass "
            "the file: --model FILE"
        )
    raise BadInput(unknown(text, is_path))


def unknown(text: str, is_path: bool) -> str:
    """What to say of text that is neither a name nor a path."""
    ready = [*bundled(), *PUBLISHED]
    near = difflib.get_close_matches(Path(text).stem if is_path else text, [*ready, *BY_HAND], 3)
    meant = f", perhaps {' or '.join(near)} is meant" if near else ""
    what = f"{text} does not exist" if is_path else f"there is no model or file {text!r}"
    return f"{what}{meant}; give a file of weights or a name: {', '.join(ready)} (all: pnst models list)"


def fetched_files(name: str) -> list[Path]:
    """The files of a published model in the cache folder, fetched if they are not there; BadWeights for one that is not
    the published file."""
    model, folder = PUBLISHED[name], cache_folder() / name
    advice = (
        f"fetch {', '.join(model.digests)} from {model.address} where there is a network, and put them in {folder} or "
        "pass their folder with --model FOLDER"
    )
    files = []
    for file, digest in model.digests.items():
        path = fetched(name, f"{model.address}{file}", folder / file, digest, advice)
        found = digests.file_digest(path)
        if found != digest:
            raise BadWeights(f"{path} is not the published file (SHA-256 {found} instead of {digest}); delete it")
        files.append(path)
    return files
