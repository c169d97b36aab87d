"""A command with one settings class of its own: flags without a section."""

import dataclasses

import pytest

from kerobust import flags
from kerobust.config import Config, UserError, setting


@dataclasses.dataclass(frozen=True)
class Settings(Config):
    """Settings of a made-up command."""

    from_: str | None = setting(None, "Where from.", choices=("here", "there"))
    rate: float = setting(0.5, "A rate.", low=0, high=1)
    sizes: tuple[int, ...] = setting((), "Sizes.")

    @classmethod
    def flag(cls, name):
        return f"--{name.rstrip('_')}"


def run(*arguments, action=lambda config, dry_run: 0):
    return flags.run(["copy", *arguments], action, "Copies.", settings=Settings)


def test_flags_become_the_fields_of_the_class():
    line = ["--from=there", "--rate=1/4", "--sizes=1,2"]

    parsed = flags.parse(line, {"rate": 0.75}, Settings)

    assert parsed.config == Settings("there", 0.25, (1, 2))
    assert flags.parse([], {"rate": 0.75}, Settings).config.rate == 0.75


def test_the_action_gets_the_settings_and_the_dry_run():
    seen = []

    def action(config, dry_run):
        seen.append((config.rate, dry_run))
        return 7

    codes = [run("--rate=0", action=action), run("--dry_run", action=action)]

    assert codes == [7, 7] and seen == [(0.0, False), (0.5, True)]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--form=here", "`--form` must be a known flag.*Did you mean --from?"),
        ("--attack.epsilon=1", "`--attack.epsilon` must be a known flag"),
        ("--from=hre", '`--from` must be one of: here, there. Received: hre.*"here"'),
        ("--rate=2", r"`--rate` must lie in \[0, 1\]. Received: rate=2"),
        ("--rate=fast", "`--rate` must be a number such as"),
        ("--sizes=1,x", "`--sizes` must be a whole number"),
    ],
)
def test_mistakes_have_the_messages_of_every_command(argument, words, capsys):
    code = run(argument)

    with pytest.raises(UserError, match=words):
        flags.parse([argument], settings=Settings)
    message = capsys.readouterr().err
    assert code == flags.USER_ERROR
    assert message.startswith("error: `--") and message.count("\n") == 1


def test_help_and_settings_are_printed_under_the_names_of_the_flags(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    words = "--from=\n      Where from. One of: here, there.\n"
    assert "Copies." in text and words in text
    assert "--rate=0.5" in text and "--method" not in text
    assert run("--help=attack") == flags.USER_ERROR
    assert "`--help` must stand alone: the flags" in capsys.readouterr().err

    assert run("--print_config", "--sizes=3,4") == 0
    lines = ["--from=  # default", "--rate=0.5  # default", "--sizes=3,4"]
    assert capsys.readouterr().out.startswith("\n".join(lines) + "  # command line")
