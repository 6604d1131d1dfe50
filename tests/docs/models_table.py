"""The README's table of models.

python -m tests.docs.models_table      writes it into README.md
"""

from __future__ import annotations

from pathlib import Path

from dinat_deploy.pipeline.listing import list_models

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- models -->\n", "<!-- /models -->"


def table() -> str:
    lines = [
        "| model | parameters | MACs | pixels | kernel | top-1 | downstream schedules | on the hub |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in list_models():
        accuracy = "-" if row.top1 is None else f"{row.top1:.1f} %"
        lines.append(
            f"| `{row.name}` | {row.parameters / 1e6:.1f} M | {row.macs / 1e9:.1f} G | "
            f"{row.image_size[0]} | {row.kernel_size} | {accuracy} | "
            f"{', '.join(row.schedules) or '-'} | {'yes' if row.pretrained else '-'} |"
        )
    return "\n".join(lines) + "\n"


def updated(text: str) -> str:
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + table() + text[end:]


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
