"""`mhfl init`: write a policy file to start from."""

from pathlib import Path

import click

from mhfl_mq.cli.output import say
from mhfl_mq.errors import ConfigError
from mhfl_mq.shipped import shipped

__all__ = ["command"]


def shipped_policies() -> dict[str, str]:
    """The policies that ship, by name, with their text."""
    folder = shipped("policies")
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }


def _description(text: str) -> str:
    """What a policy says of itself; the parser is not needed for our own files."""
    lines = (line.strip() for line in text.splitlines())
    return next((line.removeprefix("description: ") for line in lines if line.startswith("description: ")), "")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("mhfl.yaml"))
@click.option("--from", "name", default="default", show_default=True, help="Which of the shipped policies to copy.")
@click.option("--list", "only_list", is_flag=True, help="List the shipped policies.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(file: Path, name: str, only_list: bool, force: bool) -> None:
    """Write a commented policy to FILE (mhfl.yaml), to be edited and checked with `mhfl policy check`."""
    policies = shipped_policies()
    if only_list:
        for one, text in policies.items():
            click.echo(f"{one:<20} {_description(text)}")
        return
    if name not in policies:
        raise ConfigError(f"there is no policy '{name}'", where="--from", remedy=f"there are: {', '.join(policies)}")
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(policies[name])
    except FileExistsError:
        remedy = "name another file, or use --force to write over it"
        raise ConfigError(f"{file} is there already", where=str(file), remedy=remedy) from None
    except OSError as error:
        remedy = "name a file in a folder that you can write to"
        raise ConfigError(f"{file} cannot be written: {error.strerror}", where=str(file), remedy=remedy) from error
    click.echo(str(file))
    say(f"next: edit it, then `mhfl policy check {file}`")
