"""The embedded backbone's training from the command line."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import torch

from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.weights.states import read_state
from parallel_nst.training.distill.loop import distill, export, log
from parallel_nst.training.distill.photographs import load_photos, split
from parallel_nst.training.distill.settings import DistillSettings


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded backbone by distillation.")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--teacher", type=Path, required=True, help="the teacher's weights, torchvision's key names")
    parser.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints, to write and to go on from")
    parser.add_argument("--begin", type=Path, help="weights of an embedded backbone of the same widths to begin with")
    parser.add_argument("--settings", default="{}", help="JSON of the settings that differ from the defaults")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    settings = DistillSettings(**json.loads(args.settings))
    if args.begin:
        settings = replace(settings, begin=f"SHA-256 {hashlib.sha256(args.begin.read_bytes()).hexdigest()[:16]}")
    teacher = build_backbone(settings.teacher, read_state(args.teacher))
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    begin = build_backbone("embedded", read_state(args.begin)) if args.begin else None
    assert begin is None or isinstance(begin, Embedded)
    photos = load_photos(args.photos)
    model = distill(settings, photos, teacher, args.work, begin)
    _, held_out = split(photos, settings)
    log.info("as shipped: %s", export(model, held_out, settings, args.output))


if __name__ == "__main__":
    main()
