"""Commands of the stages of a run: pretraining and transfers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlssl import results
from mlssl.cli.options import add_device, add_run, add_study, command, exists_already, named, study_of_run, whole
from mlssl.errors import ConfigError, DataError, MissingLabels, did_you_mean
from mlssl.files import write_text
from mlssl.pretrain.run import signals
from mlssl.study.settings import ONE_DEVICE, TRANSFERS, Data, Pretrain
from mlssl.study.validation import plain, read

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mlssl.data.coco import Split
    from mlssl.study.study import Study

SETTINGS_FILE = "instead of --study: a YAML file of the stage's settings (see `mlssl resolve`)"
RESULT_FILE = "result file (JSON), which is never replaced; needed with --config"


def add(commands: Any) -> None:
    """Add them to the parser."""
    sub = command(
        commands,
        "resolve",
        resolve,
        "Write the full settings of one run or transfer of a study as YAML.",
        "mlssl resolve linear --study demo --out linear.yaml",
    )
    sub.add_argument("name", metavar="NAME", help="name of a run, or of a transfer such as linear")
    add_study(sub, first=False)
    sub.add_argument("--out", type=named, metavar="FILE", required=True, help="the YAML file to write")

    sub = command(
        commands,
        "check",
        check,
        "Check that the data of a study have the labels that each transfer needs.",
        "mlssl check shop.yaml",
    )
    add_study(sub)
    sub.add_argument("--out", type=named, metavar="FILE", help="also write the outcome to this text file")
    sub.add_argument("--weights", action="store_true", help="check only the files of weights, which need no data")

    sub = command(
        commands,
        "pretrain",
        pretrain,
        "Pretrain a backbone without labels. An interrupted run resumes from its state.",
        "mlssl pretrain --study demo --run-name RUN",
        "mlssl pretrain --config mls.yaml --out run             mls.yaml: by `mlssl resolve`",
    )
    add_run(sub, "--config", SETTINGS_FILE)
    sub.add_argument(
        "--out", type=named, metavar="FOLDER", help="for backbone, checkpoint, log and cost; needed with --config"
    )
    sub.add_argument("--store", type=Path, metavar="FOLDER", help="image store; built if it does not exist")
    sub.add_argument("--changed-code", action="store_true", help="resume a run that other code began")
    add_device(sub)

    sub = command(
        commands,
        "pairs",
        pairs,
        "Pair boxes of different images that look alike to a pretrained network, for a run that trains on them.",
        "mlssl pairs --study config/competitors_proposals.yaml --run-name RUN        the run that trains on them",
    )
    add_run(sub, "--config", "instead of --study: a YAML file of that run's settings (see `mlssl resolve`)")
    sub.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="checkpoint.pt of that network; needed with --config"
    )
    sub.add_argument(
        "--store", type=Path, metavar="FOLDER", help="image store, with proposals beside it; needed with --config"
    )
    add_device(sub)

    for name, text in {
        "linear": "Evaluate a frozen backbone by a multi-label linear probe: mAP with all and with few labels.",
        "knn": "Evaluate a frozen backbone by the labels of nearest training images: mAP.",
        "dense": "Evaluate a frozen backbone by linear segmentation of its maps: mIoU, mAcc.",
        "regions": "Evaluate a frozen backbone by classifying annotated boxes: accuracy.",
        "correspondence": "Evaluate a frozen backbone by matching cells of two crops, and by retrieving objects.",
        "svm": "Evaluate a frozen backbone by linear SVMs, with all labels and with few: all-point mAP.",
        "classification": "Fine-tune a backbone, or a linear layer on it, to classify images: mAP or accuracy.",
        "detection": "Fine-tune a backbone with Mask R-CNN and FPN: AP of boxes and masks.",
        "segmentation": "Fine-tune a backbone with an FCN head: mIoU, mAcc, aAcc.",
    }.items():
        sub = command(
            commands,
            name,
            transfer,
            text,
            f"mlssl {name} --study demo --run-name RUN",
            f"mlssl {name} --config {name}.yaml --backbone run/backbone.pt --out {name}.json",
        )
        add_run(sub, "--config", SETTINGS_FILE)
        sub.add_argument(
            "--backbone", type=Path, metavar="FILE", help="backbone.pt of a pretraining; needed with --config"
        )
        sub.add_argument("--out", type=named, metavar="FILE", help=RESULT_FILE)
        sub.add_argument(
            "--seed", type=whole, metavar="N", help="seed of the transfer; the pretraining's if not given"
        )
        add_device(sub)

    sub = command(
        commands,
        "pseudo-labels",
        pseudo_labels,
        "Evaluate the pseudo-labels that a run recorded during training with annotations that it did not use.",
        "mlssl pseudo-labels --study demo --run-name RUN",
    )
    add_run(sub, "--config", SETTINGS_FILE)
    sub.add_argument(
        "--run-folder", type=Path, metavar="FOLDER", help="that of a pretraining; needed with --config"
    )
    sub.add_argument(
        "--store", type=Path, metavar="FOLDER", help="the image store that it trained on; needed with --config"
    )
    sub.add_argument("--out", type=named, metavar="FILE", help=RESULT_FILE)


def check(args: argparse.Namespace) -> None:
    from mlssl.data.coco import check_images, read_split
    from mlssl.study.load import load
    from mlssl.transfer.needs import report, unrecorded

    study = load(args.study, overrides=args.set)
    if args.weights:
        check_weights(study)
        return
    refuse_unmade(study, "check")
    read: dict[Data, tuple[Split, Split]] = {}
    text = "".join(f"{line}\n" for line in report(study.transfers, read))
    for train, val in read.values():
        check_images(train, decode_all=False)
        check_images(val, decode_all=True)
    supervised = any(run.config.supervised for run in study.runs.values())
    if supervised and (why := unrecorded(read_split(study.data.root, study.data.train))):
        raise DataError(f"{why}, which supervised pretraining needs")
    print(text, end="", file=sys.stderr)
    check_weights(study)
    if args.out:
        write_text(args.out, text)


def refuse_unmade(study: Study, rule: str) -> None:
    """Raise DataError if a command of the workflow makes the study's images and has not; `rule` comes after it."""
    from mlssl.study.sources import KINDS

    for source in (study.source, study.transfer_source):
        if source.kind in KINDS and not source.ready.exists():
            raise DataError(
                f"{study.path}: data.{source.kind}: {source.ready} has not been made yet; "
                f"`mlssl run {study.path} --cores 2 --until {rule}` makes it"
            )


def check_weights(study: Study) -> None:
    """Load the initial weights of every run of a study, and print which network of the file each starts from."""
    from mlssl.pretrain.build import initial_backbone
    from mlssl.study.study import initial_weights

    named = initial_weights(study.file)
    starts: dict[tuple[str | None, str], Pretrain] = {}
    for run in study.runs.values():
        if run.config.init is not None:
            starts.setdefault((run.config.init_id, run.config.backbone), run.config)
    for config in starts.values():
        assert config.init is not None
        notes, setting = dict[str, Any](), named[config.init].removeprefix("pretrain.")
        initial_backbone(config, notes, setting, "prefix" if setting.endswith(".weights") else "init_prefix")
        print(f"{setting}: {config.init}: {notes['init']}", file=sys.stderr)


def resolve(args: argparse.Namespace) -> None:
    import yaml

    from mlssl.study.load import load

    study = load(args.study, overrides=args.set)
    if args.name in study.runs:
        config: Any = study.runs[args.name].config
    elif args.name in study.transfers:
        config = study.transfers[args.name]
    else:
        known = [*study.transfers, *study.runs]
        like = did_you_mean(args.name, known)
        raise ConfigError(f"{args.study}: has no run or transfer '{args.name}'{like}; it has {', '.join(known)}")
    write_text(args.out, yaml.safe_dump(plain(config), sort_keys=False))


def pretrain(args: argparse.Namespace) -> None:
    with signals.listening() as stop:
        from mlssl.data import selective_search
        from mlssl.data.proposals import find_proposals
        from mlssl.data.store import ImageStore, build_store
        from mlssl.pretrain.loop import pretrain
        from mlssl.pretrain.prepare import identified
        from mlssl.runtime import device, distributed
        from mlssl.study.identity import proposals_file

        if args.config:
            config, out, name = identified(read(Pretrain, args.config)), args.out, args.run_name or args.out.name
            store_path = args.store or args.out / "store"
        else:
            study, name = study_of_run(args), args.run_name
            config, out = study.runs[name].config, args.out or study.out / "runs" / name
            store_path = args.store or study.store
            if not store_path.exists():
                refuse_unmade(study, "store")
        boxes = proposals_file(config.proposals, store_path)
        if config.takes_proposals:
            selective_search.check(boxes)
        with distributed.joined(args.device) as own_device:
            on = device.choose(own_device)
            if distributed.is_main():
                data = config.data
                images = Path(data.root) / data.train
                build_store(images, store_path, short_side=data.short_side, images_id=data.images_id)
                if config.takes_proposals:
                    find_proposals(ImageStore(store_path), boxes, config.proposals)
            distributed.wait_for_all()
            device.set_up(on, args.threads)
            how: dict[str, Any] = {"stop": stop, "changed_code": args.changed_code}
            if config.knn_every is not None and distributed.is_main():
                how["score"] = score_during(config, on)
            pretrain(config, store_path, out, run=name, device=on, **how)


def pairs(args: argparse.Namespace) -> None:
    from mlssl.data.proposals import ProposalFile
    from mlssl.data.store import ImageStore
    from mlssl.pretrain.pairs import find_pairs
    from mlssl.pretrain.trained import read_run
    from mlssl.runtime import device
    from mlssl.study.identity import proposals_file, run_digest

    if args.config:
        config, path, network = read(Pretrain, args.config), args.store, read_run(args.checkpoint)
        config = dataclasses.replace(config, pairs_id=config.pairs_id or run_digest(network.config))
    else:
        study = study_of_run(args)
        run, path = study.runs[args.run_name], args.store or study.store
        if run.first_stage is None:
            known = ", ".join(study.first_stages) or "none"
            raise ConfigError(f"{args.study}: {run.id} trains on no pairs; those with pairs are {known}")
        config, network = run.config, read_run(study.out / "runs" / run.first_stage / "checkpoint.pt")
    store, on = ImageStore(path), device.choose(args.device)
    device.set_up(on, args.threads)
    proposals = ProposalFile(proposals_file(config.proposals, path), store, config.proposals)
    find_pairs(network, store, proposals, config, on)


def score_during(config: Pretrain, device: torch.device) -> Callable[[nn.Module], float]:
    """What scores the backbone during training. It decides no number of the run, so its code is not the run's."""
    from mlssl.transfer.during import Neighbours

    return Neighbours(config, device)


def transfer(args: argparse.Namespace) -> None:
    import importlib

    from mlssl.runtime import device, distributed
    from mlssl.study.identity import about_transfer
    from mlssl.transfer.load import load_backbone

    watch = results.Stopwatch()
    config, out, study = of_transfer(args, args.command)
    backbone = args.backbone or study.out / "runs" / args.run_name / "backbone.pt"
    evaluate = importlib.import_module(f"mlssl.transfer.{args.command}").evaluate
    _, meta = load_backbone(backbone)
    if args.seed is not None:
        meta["seed"] = args.seed
    about = about_transfer(args.command, config, meta)
    with distributed.joined(args.device) as own_device:
        if distributed.count() > 1 and args.command in ONE_DEVICE:
            raise ConfigError(f"{args.command}: runs on one device; start it as one process")
        if distributed.anyone(distributed.is_main() and exists_already(out, about))[0]:
            return
        on = device.choose(own_device)
        device.set_up(on, args.threads)
        rows, notes = unless_left_out(
            study, args.command, lambda: evaluate(backbone, config, seed=meta["seed"], device=on)
        )
        if not distributed.is_main():
            return
        notes["ranks"] = distributed.count()
    write_transfer(out, about, rows, notes, config, watch, device.facts(on))


def pseudo_labels(args: argparse.Namespace) -> None:
    from mlssl.study.identity import about_transfer
    from mlssl.transfer.pseudo_labels import evaluate

    watch = results.Stopwatch()
    config, out, study = of_transfer(args, "pseudo_labels")
    folder = args.run_folder or study.out / "runs" / args.run_name
    found = results.read_result(folder / "pretrain.json")
    if found is None:
        raise DataError(f"{folder}/pretrain.json: no such file; give a finished pretraining")
    about = about_transfer("pseudo_labels", config, found["header"])
    if exists_already(out, about):
        return
    rows, notes = unless_left_out(
        study, "pseudo_labels", lambda: evaluate(folder / "pseudo_labels.npz", args.store or study.store, config)
    )
    write_transfer(out, about, rows, notes, config, watch, {"device": "cpu", "threads": 1})


def unless_left_out(
    study: Study | None, stage: str, evaluate: Callable[[], tuple[list[dict[str, Any]], dict[str, Any]]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and notes of an evaluator. A study goes on without one that lacks labels, and its tables say why."""
    try:
        return evaluate()
    except MissingLabels as error:
        if study is None:
            raise
        print(f"{stage}: left out: {error}", file=sys.stderr)
        return [], {results.LEFT_OUT: str(error)}


def of_transfer(args: argparse.Namespace, stage: str) -> tuple[Any, Path, Any]:
    """Settings and result file of a transfer, and its study.

    With --config there is no study (None), and all that would come from it has been given.
    """
    from mlssl.study.sources import by_content

    if args.config:
        config = read(TRANSFERS[stage], args.config)
        return dataclasses.replace(config, data=by_content(config.data)), args.out, None
    study = study_of_run(args)
    if stage not in study.transfers:
        raise ConfigError(f"{args.study}: has no transfer '{stage}'; add it under transfers")
    return study.transfers[stage], args.out or study.result(args.run_name, stage), study


def write_transfer(
    out: Path,
    about: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    notes: Mapping[str, Any],
    config: Any,
    watch: results.Stopwatch,
    facts: Mapping[str, Any],
) -> None:
    """Write the result file of a transfer, with the code and data that made it, and print its rows."""
    from mlssl.study.code import stage_code
    from mlssl.study.sources import contents

    code, data = stage_code(about["stage"]), contents(config.data)
    results.write_result(out, results.result(about, rows, code=code, data=data, **facts, watch=watch, notes=notes))
    for row in rows:
        value = "undefined" if row["value"] is None else f"{row['value']:.2f}"
        print(f"{row['protocol']:>24} {row['metric']:<14} {value:>9}  (n = {row['n']})")
