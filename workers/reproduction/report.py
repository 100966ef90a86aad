"""Reports as files."""

from pathlib import Path

from meta_reward_core.data.output_file import write_atomically
from meta_reward_core.errors import ArtifactError
from meta_reward_core.reporting.document import Document
from meta_reward_core.reporting.markdown import write_markdown
from webapp.reporting.html_export import write_html


def write_report(document: Document, stem: Path) -> list[Path]:
    """Write STEM.html and STEM.md, each whole or not at all; return where they are.

    Raises:
        ArtifactError: they cannot be written.
    """
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make the folder {stem.parent}: {error}") from error
    texts = {".html": write_html(document), ".md": write_markdown(document)}
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, [text])
    return paths
