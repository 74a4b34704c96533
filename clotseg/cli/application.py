"""What commands have in common: the application they register with, settings, and the printing of results."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clotseg.project import Project

app = typer.Typer(
    name="clotseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From folders of CT angiograms to a trained clot-segmentation network and an honest report.\n\n"
    "Research software, not a medical device.",
)


@app.callback()
def _global_options(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("-C", help="Run as if started in this folder.")] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001
) -> None:
    context.obj = Project(folder.resolve())


def load(project: Project, flags: dict[str, Any], *, print_only: bool) -> Any:
    from clotseg.config import load_config

    return shown(load_config(project.config_file, flags), print_only=print_only)


def shown(config: Any, *, print_only: bool) -> Any:
    """The settings; where they are to be printed, nothing comes after."""
    from clotseg.config import to_toml

    if print_only:
        print(to_toml(config), end="")
        raise typer.Exit
    return config


def show(result: dict[str, Any], table: Any, *, as_json: bool) -> None:
    from clotseg.results import print_result

    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_result(table(result))


def below(project: Project, paths: list[Path] | None) -> list[Path]:
    """The user's paths, taken from the project folder."""
    return [project.root / path for path in paths or ()]
