"""The command line: flags made from the settings classes, flag files, exit codes.

A command takes the settings of an experiment (`--section.name`), or one settings class
of its own, whose flags have no section (`--name`; a field `from_` is `--from`).
"""

import dataclasses
import os
import sys
import traceback
import typing
from collections.abc import Callable, Iterator

# Read when TensorFlow is imported, which the imports below do: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags as absl_flags

import kerobust
from kerobust.config import (
    Config,
    UserError,
    check_name,
    field_kind,
    parse_number,
    suggestion,
)
from kerobust.experiment import STAGES, ExperimentConfig, to_text
from kerobust.methods import METHODS

USER_ERROR, STOPPED = 2, 75
Settings = type[ExperimentConfig] | type[Config]
_ALIASES = {"evaluation.encoders": "benchmark.encoders"}
# Words of flags whose fields do not list them: `ExperimentConfig` checks these.
_NAMES = {"method": tuple(METHODS), "run.stages": STAGES}
_SWITCHES = {
    "help": "Show every flag with its default; --help=SECTION, such as --help=attack, "
    "shows those of one section.",
    "version": "Show the version.",
    "print_config": "Show the effective settings and where each comes from, then stop.",
    "dry_run": "Build and check everything and write nothing; training also runs a few "
    "steps and estimates the time of all of them.",
    "debug": "Show tracebacks of errors.",
}


class _SettingParser(absl_flags.ArgumentParser):
    """Reads one field of a settings class, `8/255` and comma lists included."""

    def __init__(self, name: str, kind):
        self.name = name
        self.base, self.optional, self.many = field_kind(kind)

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument
        if self.many:
            return tuple(self._item(item) for item in argument.split(",") if item)
        if argument == "" and self.optional:
            return None
        return self._item(argument)

    def _item(self, text):
        try:
            if self.base is bool:
                return {"true": True, "false": False}[text.lower()]
            return parse_number(text) if self.base is float else self.base(text)
        except (ValueError, KeyError, ZeroDivisionError):
            wanted: dict[type, str] = {
                bool: "true or false",
                float: "a number such as 0.1 or 8/255",
            }
            raise UserError(
                f"`--{self.name}` must be {wanted.get(self.base, 'a whole number')}. "
                f"Received: {self.name}={text}."
            ) from None


class _SettingSerializer(absl_flags.ArgumentSerializer):
    def serialize(self, value):
        return to_text(value)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A parsed command line: the settings, its switches, the source of each flag."""

    config: typing.Any
    switches: frozenset[str]
    sources: dict[str, str]


def define(
    values: absl_flags.FlagValues,
    overrides: dict[str, typing.Any],
    settings: Settings = ExperimentConfig,
) -> None:
    """Defines one flag per setting on `values`; defaults come from the dataclasses."""
    for name, kind, text, default in _flags_of(settings()):
        value = overrides.get(name, default)
        parser = _SettingParser(name, kind)
        absl_flags.DEFINE(
            parser, name, value, text, values, serializer=_SettingSerializer()
        )


def parse(
    argv: list[str],
    overrides: dict[str, typing.Any] | None = None,
    settings: Settings = ExperimentConfig,
) -> Parsed:
    """Returns the settings that a command line describes.

    Args:
        argv: Arguments without the program's name.
        overrides: Defaults that this program changes, by flag name.
        settings: Class of the settings; it must have defaults for all of them.

    Raises:
        UserError: On unknown flags, bad values, unreadable flag files.
    """
    values = absl_flags.FlagValues()
    define(values, overrides or {}, settings)
    arguments = _expand(argv, os.getcwd(), "command line", ())
    switches = {text[2:] for text, _ in arguments if text[2:] in _SWITCHES}
    sources = {}
    for text, source in arguments:
        if text[2:] not in _SWITCHES:
            sources[_assign(values, text, source)] = source
    values.mark_as_parsed()
    return Parsed(_build(values, settings), frozenset(switches), sources)


def run(
    argv: list[str],
    action: Callable[[typing.Any, bool], int],
    about: str,
    overrides: dict[str, typing.Any] | None = None,
    settings: Settings = ExperimentConfig,
) -> int:
    """Parses, handles the common switches, runs `action`; returns the exit code.

    Args:
        argv: `sys.argv`.
        action: Called with the settings and whether this is a dry run.
        about: What `--help` begins with.
        overrides: Defaults that this program changes, by flag name.
        settings: See `parse`.
    """
    debug = "--debug" in argv
    helps = [text for text in argv[1:] if text.partition("=")[0] == "--help"]
    try:
        if helps:
            values = absl_flags.FlagValues()
            define(values, overrides or {}, settings)
            section = helps[-1].partition("=")[2]
            return _print_help(values, section, _header(argv[0], about))
        if "--version" in argv:
            print(f"kerobust {kerobust.__version__}")
            return 0
        parsed = parse(argv[1:], overrides, settings)
        if "print_config" in parsed.switches:
            return _print_config(parsed)
        return action(parsed.config, "dry_run" in parsed.switches)
    except UserError as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


def _flags_of(
    settings: ExperimentConfig | Config,
) -> Iterator[tuple[str, typing.Any, str, typing.Any]]:
    """Yields flag name (without dashes), kind, help and value of every setting."""
    parts: dict[str, Config] = {}
    if isinstance(settings, ExperimentConfig):
        text = _with_words("What `pretrain` runs.", _NAMES["method"])
        yield "method", str, text, settings.method
        parts = settings.sections()
    else:
        parts[""] = settings
    for section, part in parts.items():
        kinds = typing.get_type_hints(type(part))
        for field in dataclasses.fields(part):
            name, kind = _name(section, field), kinds[field.name]
            words = field.metadata["choices"] or _NAMES.get(name, ())
            text = _with_words(field.metadata["help"], words, field_kind(kind)[2])
            yield name, kind, text, getattr(part, field.name)


def _with_words(text: str, words: tuple[str, ...], many: bool = False) -> str:
    """Returns the help of a flag with the words that it takes."""
    start = "Each one of" if many else "One of"
    return f"{text} {start}: {', '.join(words)}." if words else text


def _name(section: str, field: dataclasses.Field) -> str:
    # A word of Python such as `from` cannot be a field: it gets an underscore.
    return f"{section}.{field.name}" if section else field.name.rstrip("_")


def _expand(argv, folder, source, including) -> list[tuple[str, str]]:
    """Returns (argument, source) with flag files replaced by what they hold."""
    expanded = []
    for text in argv:
        if not text.startswith("--"):
            raise UserError(
                f"Every argument must have the form --name=value. Received: {text}."
                + (f" It stands in {source}." if including else "")
            )
        if text.startswith("--flagfile="):
            expanded += _read_flagfile(text.split("=", 1)[1], folder, including)
        else:
            expanded.append((text, source))
    return expanded


def _read_flagfile(name: str, folder: str, including: tuple[str, ...]):
    path = os.path.realpath(os.path.join(folder, os.path.expanduser(name)))
    if path in including:
        raise UserError(
            f"`--flagfile` must not include itself. Received: flagfile={name}, reached "
            f"from {including[-1]}. Remove that line."
        )
    if not os.path.isfile(path):
        where = f", named in {including[-1]}" if including else ""
        raise UserError(
            f"`--flagfile` must name an existing file. Received: flagfile={name}{where}"
            f" (looked for {path})."
        )
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    lines = [line for line in lines if line and not line.startswith(("#", "//"))]
    return _expand(lines, os.path.dirname(path), name, (*including, path))


def _assign(values, text: str, source: str) -> str:
    name, separator, value = text[2:].partition("=")
    name = _ALIASES.get(name, name)
    if name not in values:
        known = [*values, *_SWITCHES, "flagfile"]
        near = suggestion(name, known).replace('"', "")
        near = near.replace("mean ", "mean --")
        raise UserError(
            f"`--{name}` must be a known flag. Received: {text} ({source}).{near} "
            "Run with --help for the list."
        )
    if not separator:
        value = "true" if values[name].parser.base is bool else ""
    if not separator and values[name].parser.base is not bool:
        raise UserError(
            f"`--{name}` must be written --{name}=value. Received: {text} ({source})."
        )
    # Not `Flag.parse`, which would wrap the parser's message in one of its own.
    values[name].value = values[name].parser.parse(value)
    return name


def _build(values, settings: Settings) -> ExperimentConfig | Config:
    if not issubclass(settings, ExperimentConfig):
        return _chosen(values, "", settings)
    sections: dict[str, typing.Any] = {
        section: _chosen(values, section, type(part))
        for section, part in settings().sections().items()
    }
    return settings(method=values["method"].value, **sections)


def _chosen(values, section: str, kind: type[Config]) -> Config:
    fields = dataclasses.fields(kind)
    return kind(**{each.name: values[_name(section, each)].value for each in fields})


def _print_config(parsed: Parsed) -> int:
    for name, _, _, value in _flags_of(parsed.config):
        print(f"--{name}={to_text(value)}  # {parsed.sources.get(name, 'default')}")
    return 0


def _print_help(values: absl_flags.FlagValues, section: str, header: str) -> int:
    """Prints the flags of a section; of all, with the switches, if it is empty."""
    if section:
        known = dict.fromkeys(name.partition(".")[0] for name in values if "." in name)
        if not known:
            raise UserError(
                "`--help` must stand alone: the flags of this command have no sections."
                f" Received: help={section}. Run with --help."
            )
        check_name("--help", section, known)
    else:
        print(header)
    for name in values:
        if name.startswith(f"{section}." if section else ""):
            flag = values[name]
            print(f"  --{name}={to_text(flag.default)}\n      {flag.help}")
    for name, meant in _ALIASES.items():
        if meant in values and section in ("", meant.partition(".")[0]):
            print(f"  --{name}=\n      The same as --{meant}.")
    return 0


def _header(program: str, about: str) -> str:
    """Returns what `--help` prints before the settings."""
    usage = f"Usage: {_command(program)} [--flagfile=FILE] [--name=value ...]"
    switches = {**_SWITCHES, "flagfile=FILE": "Read flags from FILE."}
    texts = [f"  --{name}\n      {text}" for name, text in switches.items()]
    return "\n".join([f"{about}\n\n{usage}\n", *texts])


def _command(program: str) -> str:
    """Returns how to call the module whose file is `program`, or its last part."""
    specs = (getattr(item, "__spec__", None) for item in list(sys.modules.values()))
    named = [each.name for each in specs if each and each.origin == program]
    return f"python -m {named[0]}" if named else os.path.basename(program)
