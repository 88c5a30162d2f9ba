"""What does a folder cost over the bare forward passes of its pictures, and does the driver stay as small as it was?

The bare passes: the same pictures, read before, one after the other through the same generator in the same precision,
in as many processes of one thread as there are workers, and in one process with all threads; the quicker of the two
counts. All ways in turn, several times.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import page
import psutil
import torch
from photographs import write_photographs

from parallel_nst.files.images import read_image
from parallel_nst.jobs.batch.job import FolderReport, FolderStatus, paint_folder
from parallel_nst.jobs.batch.methods import GeneratorMethod, generator_method
from parallel_nst.jobs.requests.batch import FolderJob, GeneratorOptions
from parallel_nst.networks.generators.files import save_generator
from parallel_nst.networks.generators.transformer import TransformerNet
from parallel_nst.painting.generators.runs import prepare
from parallel_nst.workers.opening import resolved_dtype, usable_cores
from parallel_nst.workers.worker import WorkerSpec

MIB = 1 << 20


@dataclass(frozen=True)
class Setting:
    """What is measured: a generator and its pictures."""

    name: str
    model: str
    style: Path | None
    photos: Sequence[Path]
    workers: int

    def job(self, folder: Path) -> FolderJob:
        (folder / "list.txt").write_text("\n".join(str(path) for path in self.photos))
        return FolderJob(str(folder / "list.txt"), folder / "out", self.model, self.style, workers=self.workers)

    def opened(self) -> tuple[GeneratorMethod, str]:
        """The generator, and the precision that a batch would give it here."""
        model = generator_method(self.model, self.style, GeneratorOptions())
        spec = WorkerSpec("cpu", resolved_dtype("auto", "cpu"), 1, {})
        return model, model.stylizer(spec, 1 << 40).dtype


def pass_through(setting: Setting, part: Sequence[Path], threads: int, begin: Any, ends: Any) -> None:
    """In a process: read pictures and the generator, wait for the others, then forward passes alone, timed."""
    torch.set_num_threads(threads)
    model, dtype = setting.opened()
    generator = prepare(model.generator, torch.device("cpu"), dtype)
    pictures = [torch.from_numpy(read_image(path).pixels).permute(2, 0, 1)[None] for path in part]
    with torch.inference_mode():
        generator(pictures[0], model.style)
        begin.wait()
        began = time.perf_counter()
        for picture in pictures:
            generator(picture, model.style)
    ends.put((began, time.perf_counter()))


def bare(setting: Setting, processes: int) -> float:
    """Pictures a second of forward passes alone, in so many processes that share the cores."""
    context = get_context("spawn")
    begin, ends = context.Barrier(processes), context.Queue()
    threads = max(1, setting.workers // processes)
    parts = [setting.photos[number::processes] for number in range(processes)]
    running = [context.Process(target=pass_through, args=(setting, part, threads, begin, ends)) for part in parts]
    for process in running:
        process.start()
    times = [ends.get() for _ in running]
    for process in running:
        process.join()
    return len(setting.photos) / (max(end for _, end in times) - min(start for start, _ in times))


def batch(setting: Setting, watch: Watch | None = None) -> FolderReport:
    """The folder painted from nothing, outputs thrown away."""
    folder = Path(tempfile.mkdtemp())
    try:
        return paint_folder(setting.job(folder), lambda line: None, watch)
    finally:
        shutil.rmtree(folder)


@dataclass
class Watch:
    """Notes the driver's memory, and the object store's, at some pictures."""

    at: Sequence[int]
    rows: list[tuple[int, float, float]] = field(default_factory=list)

    def __call__(self, status: FolderStatus) -> None:
        done = status.done + status.failed
        if done in self.at:
            import ray

            total, free = ray.cluster_resources(), ray.available_resources()
            stored = total["object_store_memory"] - free.get("object_store_memory", 0.0)
            self.rows.append((done, psutil.Process().memory_info().rss / MIB, stored / MIB))


def throughput(settings: Sequence[Setting], repeats: int) -> str:
    """The table of pictures a second."""
    rows = []
    for setting in settings:
        found: dict[str, list[float]] = {"one": [], "many": [], "batch": [], "whole": [], "ratio": []}
        for _ in range(repeats):
            found["one"].append(bare(setting, 1))
            found["many"].append(bare(setting, setting.workers))
            report = batch(setting)
            assert report.failed == 0
            found["batch"].append(report.ran.painted / report.ran.seconds)
            found["whole"].append(report.ran.painted / report.seconds)
            found["ratio"].append(found["batch"][-1] / max(found["one"][-1], found["many"][-1]))
        pictures = f"{len(setting.photos)} of {megapixels(setting.photos):.2f} MP"
        speeds = [page.spread(found[key], 2) for key in ("one", "many", "batch", "ratio", "whole")]
        rows.append([setting.name, pictures, report.ran.dtype, *speeds])
    workers = settings[0].workers
    header = [
        "model",
        "pictures",
        "precision",
        f"bare, 1 process x {workers} threads",
        f"bare, {workers} processes x 1 thread",
        f"batch, {workers} workers",
        "batch over the quicker bare",
        "batch with start and end",
    ]
    return page.table(header, rows)


def megapixels(photos: Sequence[Path]) -> float:
    """Mean size."""
    sizes = [read_image(path).size for path in photos]
    return sum(width * height for width, height in sizes) / len(sizes) / 1e6


def memory(setting: Setting) -> str:
    """The table of the driver's memory over a long folder."""
    count = len(setting.photos)
    watch = Watch(sorted({1, count // 9, *(count * part // 9 for part in range(1, 10)), count}))
    report = batch(setting, watch)
    assert report.failed == 0
    rows = [[done, f"{driver:.0f}", f"{stored:.1f}"] for done, driver, stored in watch.rows]
    early = next(driver for done, driver, _ in watch.rows if done >= count // 9)
    growth = watch.rows[-1][1] - early
    table = page.table(["pictures done", "driver, MiB", "object store in use, MiB"], rows)
    return f"{table}\n\nThe driver grew by {growth:.1f} MiB from picture {count // 9} to picture {count}."


def settings_of(options: argparse.Namespace, folder: Path) -> list[Setting]:
    """Generators of the checkpoints that there are, and an untrained one where there are none."""
    photos = sorted(options.photos.glob("*.jpg"))[: options.count]
    public = options.checkpoints.glob("la_muse.npz")
    found = [Setting(path.stem, str(path), None, photos, options.workers) for path in public]
    if (options.checkpoints / "microast").exists() and options.style.exists():
        found.append(Setting("microast", str(options.checkpoints / "microast"), options.style, photos, options.workers))
    if not found:
        save_generator(TransformerNet(), folder / "untrained.safetensors")
        found = [Setting("untrained", str(folder / "untrained.safetensors"), None, photos, options.workers)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photographs; else pieces of the bundled one")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="with la_muse.npz, microast")
    parser.add_argument("--style", type=Path, default=Path("parallel_nst/files/bundled/swirls.jpg"))
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--count", type=int, default=64, help="photographs of the throughput")
    parser.add_argument("--many", type=int, default=900, help="photographs of the memory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.count, options.many, options.repeats = 16, 36, 1
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            options.photos = Path(folder) / "photographs"
            options.photos.mkdir()
            write_photographs(options.photos, options.many)
        settings = settings_of(options, Path(folder))
        every = sorted(options.photos.glob("*.jpg"))[: options.many]
        last = settings[-1]
        parts = [
            f"Pictures a second while painting: from the first task to the last result; median of {options.repeats} "
            "rounds and their spread.",
            throughput(settings, options.repeats),
            f"{len(every)} photographs through {last.name}. What stays in the object store is the generator, put there "
            "once.",
            memory(Setting(last.name, last.model, last.style, every, options.workers)),
        ]
    print(page.write(__file__, "Folders", parts, quick=options.quick).read_text())


if __name__ == "__main__":
    main()
