"""The `cxp2p` command. The programs add `node`, `models` and `gateway` by entry point, where they are installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

import click

import cxp2p
from cxp2p.program import fail

OWN = {
    **dict.fromkeys(("bootstrap", "chat", "embed", "offers", "scrape"), "cxp2p.commands"),
    **dict.fromkeys(("epoch", "evidence", "receipt"), "cxp2p.records_commands"),
    "rewards": "cxp2p.rewards_commands",
}
EXTRAS = {"node": "node", "models": "node", "gateway": "gateway"}


class Programs(click.Group):
    """Commands of the library, and those that installed programs bring. Each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*OWN, *EXTRAS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OWN:
            own = getattr(import_module(OWN[cmd_name]), cmd_name)
            assert isinstance(own, click.Command)
            return own
        if cmd_name not in EXTRAS:
            return None
        for point in entry_points(group="cxp2p.commands", name=cmd_name):
            try:
                command = point.load()
            except ModuleNotFoundError as error:
                return _missing(cmd_name, error.name or "a package")
            assert isinstance(command, click.Command)
            return command
        return _missing(cmd_name, "its program")


def _missing(name: str, what: str) -> click.Command:
    hint = f"`cxp2p {name}` needs {what}, which is not installed: pip install 'cxp2p[{EXTRAS[name]}]'"

    def stop(**_: object) -> None:
        fail(click.ClickException(hint))

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(
        name,
        callback=stop,
        short_help=f"(not installed: cxp2p[{EXTRAS[name]}])",
        context_settings=settings,
        add_help_option=False,
    )


@click.group(cls=Programs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cxp2p.__version__, prog_name="cxp2p")
def main() -> None:
    """A peer-to-peer network that serves AI models.

    \b
    Examples:
      cxp2p node run                                serve models from this machine
      cxp2p gateway run                             OpenAI-compatible HTTP in front of the network
      cxp2p chat smollm2:135m "Hello" -b ADDRESS    ask the network directly
      cxp2p offers -b ADDRESS                       what the network offers now
    """


if __name__ == "__main__":
    main()
