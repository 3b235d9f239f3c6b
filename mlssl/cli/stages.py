"""Commands of the stages of a run: pretraining and transfers."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.cli.options import command, compute, exists_already, of_run
from mlssl.errors import ConfigError, DataError
from mlssl.files import write_text
from mlssl.pretrain.run import signals
from mlssl.study.settings import FROZEN, TRANSFERS, Pretrain, PseudoLabels, plain, read


def add(commands: Any) -> None:
    """Add them to the parser."""
    sub = command(commands, "resolve", resolve, "Write the full configuration of one run or transfer of a study.")
    sub.add_argument("name", help="a run's name, or a transfer's, such as linear")
    sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
    sub.add_argument("--out", type=Path, required=True, help="the YAML file to write")

    sub = command(commands, "pretrain", pretrain, "Train a backbone without labels. A run that was killed resumes.")
    of_run(sub, "instead of --study: a run's settings (see resolve)")
    sub.add_argument(
        "--run-name",
        dest="run",
        help="name of the run; with --config the name to report, that of --out if not given",
    )
    sub.add_argument("--out", type=Path, help="folder for backbone, checkpoint, log and cost; needed with --config")
    sub.add_argument("--store", type=Path, help="image store; built if it is not there")
    sub.add_argument("--changed-code", action="store_true", help="resume a run that other code has begun")
    compute(sub)

    for name, text in {
        "linear": "Multi-label linear probe on a frozen backbone: mAP, also with few labels.",
        "knn": "Nearest neighbours of frozen features: mAP.",
        "dense": "Linear segmentation on frozen maps: mIoU, mAcc.",
        "regions": "Categories of annotated boxes by frozen maps: accuracy of a linear layer and of neighbours.",
        "correspondence": "Matching cells of two crops, and retrieving objects, by frozen maps.",
        "detection": "Mask R-CNN with an FPN on a backbone: box and mask AP.",
        "segmentation": "FCN on a backbone: mIoU, mAcc, aAcc.",
    }.items():
        sub = command(commands, name, transfer, text)
        of_run(sub, "instead of --study: the transfer's settings (see resolve)")
        sub.add_argument("--run-name", dest="run", help="name of a run of the study")
        sub.add_argument("--backbone", type=Path, help="backbone.pt of a pretraining; needed with --config")
        sub.add_argument("--out", type=Path, help="result file (JSON); must not exist; needed with --config")
        sub.add_argument("--seed", type=int, help="the pretraining's seed if not given")
        compute(sub)

    sub = command(
        commands, "pseudo-labels", pseudo_labels, "Judge the labels a run trained with by annotations it never saw."
    )
    of_run(sub, "instead of --study: the settings (see resolve)")
    sub.add_argument(
        "--run-name",
        dest="run",
        required=True,
        help="name of a run of the study; with --config the folder of a run",
    )
    sub.add_argument("--store", type=Path, help="the image store it trained on; needed with --config")
    sub.add_argument("--out", type=Path, help="result file (JSON); must not exist; needed with --config")


def resolve(args: argparse.Namespace) -> None:
    import yaml

    from mlssl.study.expand import load

    study = load(args.study)
    if args.name in study.runs:
        config = study.runs[args.name].config
    elif args.name in study.transfers:
        config = study.transfers[args.name]
    else:
        known = [*study.transfers, *study.runs]
        raise ConfigError(f"{args.study}: has no run or transfer '{args.name}'; it has {', '.join(known)}")
    write_text(args.out, yaml.safe_dump(plain(config), sort_keys=False))


def pretrain(args: argparse.Namespace) -> None:
    with signals.listening() as stop:
        from mlssl.data.store import build_store
        from mlssl.pretrain.loop import identified, pretrain
        from mlssl.runtime import device, distributed

        if args.config:
            config, out, name = identified(read(Pretrain, args.config)), args.out, args.run or args.out.name
            store_path = args.store or args.out / "store"
        else:
            study, name = of_study(args), args.run
            config, out = study.runs[name].config, args.out or study.out / "runs" / name
            store_path = args.store or study.store
        with distributed.joined(args.device) as own_device:
            if distributed.is_main():
                images = {"short_side": config.data.short_side, "images_id": config.data.images_id}
                build_store(Path(config.data.root) / config.data.train, store_path, **images)
            distributed.wait_for_all()
            on = device.choose(own_device, args.threads)
            pretrain(config, store_path, out, run=name, device=on, stop=stop, changed_code=args.changed_code)


def of_study(args: argparse.Namespace) -> Any:
    """The study of `--study`, which has the run of `--run-name`."""
    from mlssl.study.expand import load

    study = load(args.study)
    if args.run not in study.runs:
        raise ConfigError(
            f"{args.study}: has no run '{args.run}'; it has {', '.join(study.runs)} "
            "(names change when data or settings do)"
        )
    return study


def transfer(args: argparse.Namespace) -> None:
    import importlib

    from mlssl.runtime import device, distributed
    from mlssl.study.code import stage_code
    from mlssl.study.identity import about_transfer
    from mlssl.study.sources import by_content, contents
    from mlssl.transfer.load import load_backbone

    watch = results.Stopwatch()
    if args.config:
        config, backbone, out = read(TRANSFERS[args.command], args.config), args.backbone, args.out
        config = dataclasses.replace(config, data=by_content(config.data))
    else:
        study = of_study(args)
        folder = study.out / "runs" / args.run
        if args.command not in study.transfers:
            raise ConfigError(f"{args.study}: has no transfer '{args.command}'; add it under transfers")
        config, backbone = study.transfers[args.command], args.backbone or folder / "backbone.pt"
        out = args.out or study.result(args.run, args.command)
    evaluate = importlib.import_module(f"mlssl.transfer.{args.command}").evaluate
    _, meta = load_backbone(backbone)
    if args.seed is not None:
        meta["seed"] = args.seed
    about = about_transfer(args.command, config, meta)
    with distributed.joined(args.device) as own_device:
        if distributed.count() > 1 and args.command in FROZEN:
            raise ConfigError(f"{args.command}: runs on one device; start it as one process")
        if distributed.anyone(distributed.is_main() and exists_already(out, about))[0]:
            return
        on = device.choose(own_device, args.threads)
        rows, notes = evaluate(backbone, config, seed=meta["seed"], device=on)
        if not distributed.is_main():
            return
        notes["ranks"] = distributed.count()
    made_by = {"code": stage_code(args.command), "data": contents(config.data)}
    result = results.result(about, rows, **made_by, **device.facts(on), watch=watch, notes=notes)
    results.write_result(out, result)
    for row in rows:
        print(f"{row['protocol']:>24} {row['metric']:<14} {row['value']:6.2f}  (n = {row['n']})")


def pseudo_labels(args: argparse.Namespace) -> None:
    from mlssl.study.code import stage_code
    from mlssl.study.identity import about_transfer
    from mlssl.study.sources import by_content, contents
    from mlssl.transfer.pseudo_labels import evaluate

    watch = results.Stopwatch()
    if args.config:
        config, run, store_path, out = read(PseudoLabels, args.config), args.run, args.store, args.out
        config = dataclasses.replace(config, data=by_content(config.data))
    else:
        study = of_study(args)
        run, store_path = study.out / "runs" / args.run, args.store or study.store
        if args.command.replace("-", "_") not in study.transfers:
            raise ConfigError(f"{args.study}: has no transfer 'pseudo_labels'; add it under transfers")
        config, out = study.transfers["pseudo_labels"], args.out or study.result(args.run, "pseudo_labels")
    found = results.read_result(Path(run) / "pretrain.json")
    if found is None:
        raise DataError(f"{run}/pretrain.json: no such file; give a finished pretraining")
    about = about_transfer("pseudo_labels", config, found["header"])
    if exists_already(out, about):
        return
    rows, notes = evaluate(Path(run) / "pseudo_labels.npz", store_path, config)
    made_by = {"code": stage_code("pseudo_labels"), "data": contents(config.data)}
    where = {"device": "cpu", "threads": 1}
    result = results.result(about, rows, **made_by, **where, watch=watch, notes=notes)
    results.write_result(out, result)
    for row in rows:
        print(f"{row['metric']:>14} {'undefined' if row['value'] is None else row['value']}  (n = {row['n']})")
