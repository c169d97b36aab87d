"""Pages of docs/ whose sections are written by scripts."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def replace_section(path: pathlib.Path, title: str, text: str) -> None:
    """Writes `text` as the section `# title` of a page; other sections stay."""
    sections = {}
    if path.exists():
        for part in ("\n" + path.read_text()).split("\n# ")[1:]:
            name, _, body = part.partition("\n")
            sections[name] = body.strip()
    sections[title] = text.strip()
    path.write_text(
        "\n\n".join(f"# {name}\n\n{body}" for name, body in sections.items()) + "\n"
    )
