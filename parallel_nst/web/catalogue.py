"""The generators that a server offers, by name: those that are bundled or in the cache, and those of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallel_nst.errors import BadInput, BadWeights
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.files import WEIGHTS, read_generator
from parallel_nst.networks.generators.registry import named_models, resolve


@dataclass(frozen=True)
class Model:
    """name: what callers ask for. about: in words. takes_style: whether it wants a style picture. paths: its files."""

    name: str
    about: str
    takes_style: bool
    paths: tuple[Path, ...]


class Catalogue:
    """All models of a server. A name is looked up, never made into a path."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: of more models; each file in it, or folder of MicroAST's four, is one, called as it is without its
        suffix. What cannot be read is left out, see `left_out`."""
        self.models: dict[str, Model] = {}
        self.left_out: list[str] = []
        for named in named_models():
            if named.state in ("bundled", "in cache"):
                found = resolve(named.name)
                self._add(named.name, named.about, (found,) if isinstance(found, Path) else tuple(found))
        for path in sorted(folder.iterdir()) if folder else ():
            if not path.name.startswith(".") and (path.is_dir() or path.suffix.lower() in WEIGHTS):
                self._add(path.stem, "of the model folder", (path,))

    def __getitem__(self, name: str) -> Model:
        """BadInput for a name that there is not."""
        if name not in self.models:
            raise BadInput(f"there is no model {name[:80]!r}; give one of {', '.join(self.models)}")
        return self.models[name]

    def open(self, name: str) -> Generator:
        """Read from its files; BadInput for a name that there is not."""
        return read_generator(list(self[name].paths))[0]

    def _add(self, name: str, about: str, paths: tuple[Path, ...]) -> None:
        try:
            generator, info = read_generator(list(paths))
        except BadWeights as error:
            self.left_out.append(str(error))
            return
        self.models[name] = Model(name, f"{about}: {info.architecture}", generator.takes_style, paths)
