"""Optional logging to TensorBoard, Weights & Biases or MLflow, each by its own writer.

They get the lines of log.jsonl, whose values are on the host already: a step never waits for them. A library is
imported only when a run asks for it (`log_to`).
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self

from mlssl.errors import ConfigError


class Writer(Protocol):
    """Where lines go."""

    errors: type[Exception]
    """What the library raises when it cannot write: no server, no account, no space."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def library(name: str, where: str, package: str) -> ModuleType:
    """The module; ConfigError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"log_to: {where}: cannot be imported ({error}); run `pip install {package}`, or "
            f"take {where} out of log_to"
        ) from None


def unusable(where: str, error: Exception, remedy: str) -> ConfigError:
    """What is said before the training of a library that cannot begin a run."""
    why = textwrap.shorten(str(error), 200, placeholder=" …").rstrip(".")
    return ConfigError(f"log_to: {where}: {why}; {remedy}, or take {where} out of log_to")


def failed(writer: Writer, error: Exception) -> str:
    """What is said of one that fails during the training."""
    why = textwrap.shorten(str(error), 200, placeholder=" …")
    return f"log_to: {type(writer).__name__} failed ({why}); the run goes on without it, log.jsonl has all lines"


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder; steps of earlier attempts after `from_step` are hidden."""

    errors: type[Exception] = OSError

    def __init__(self, folder: Path, about: Mapping[str, Any], from_step: int) -> None:
        module = library("torch.utils.tensorboard", "tensorboard", "tensorboard")
        self.writer = module.SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases with the run's name as its id, so that a resumed run continues it.

    Project, account and mode come from its own environment variables (`WANDB_PROJECT`, `WANDB_MODE=offline`, …).
    """

    errors: type[Exception]

    def __init__(self, folder: Path, about: Mapping[str, Any], from_step: int) -> None:
        module = library("wandb", "wandb", "wandb")
        self.errors = module.Error
        try:
            self.run = module.init(
                id=about["run"], name=about["run"], dir=str(folder), config=dict(about["config"]), resume="allow"
            )
        except self.errors as error:
            raise unusable("wandb", error, "set WANDB_MODE=offline") from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow, whose id is kept in `mlflow_run_id` of the run's folder, so that a resumed run continues it.

    The server and the experiment come from its own environment variables (`MLFLOW_TRACKING_URI`, …).
    """

    errors: type[Exception]

    def __init__(self, folder: Path, about: Mapping[str, Any], from_step: int) -> None:
        self.module = library("mlflow", "mlflow", "mlflow")
        self.errors = self.module.MlflowException
        kept = folder / "mlflow_run_id"
        try:
            if kept.exists():
                self.module.start_run(run_id=kept.read_text())
                return
            kept.write_text(self.module.start_run(run_name=about["run"]).info.run_id)
            # Values of parameters are texts of limited length, so nested settings become one parameter each.
            self.module.log_params({name: str(value)[:250] for name, value in flat(about["config"])})
        except self.errors as error:
            raise unusable("mlflow", error, "check MLFLOW_TRACKING_URI") from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.module.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self.module.end_run()


KINDS: dict[str, Callable[[Path, Mapping[str, Any], int], Writer]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
"""Value of `log_to` -> its writer."""


class Loggers:
    """The writers `names` of a run with this `folder`; `about` is its description (`study.identity.about_run`).

    Opened by `with`, and closed at its end, also after an error. Raises ConfigError for a missing library.
    """

    def __init__(self, names: Sequence[str], folder: Path, about: Mapping[str, Any], *, from_step: int) -> None:
        self.names, self.how = names, (folder, about, from_step)
        self.open: list[Writer] = []

    def __enter__(self) -> Self:
        try:
            for name in self.names:
                self.open.append(KINDS[name](*self.how))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send lines of the log; nested values are named `diagnostics/spread`.

        A tool that fails, because its server is gone or a disk is full, is left out from then on: the training is
        worth more, and log.jsonl has all lines.
        """
        for line in lines:
            values = dict(flat({key: value for key, value in line.items() if key != "step"}))
            for writer in list(self.open):
                try:
                    writer.write(line["step"], values)
                except writer.errors as error:
                    print(failed(writer, error), file=sys.stderr)
                    self.open.remove(writer)

    def close(self) -> None:
        while self.open:
            writer = self.open.pop()
            try:
                writer.close()
            except writer.errors as error:
                print(failed(writer, error), file=sys.stderr)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of a name, such as `views/crop`, and a value that is no mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
