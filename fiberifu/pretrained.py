"""From a name, a folder or a hub id to a checked local model folder."""

from pathlib import Path

__all__ = ["BUNDLED", "resolve_pretrained"]

#: Folder of the weights that come with the package.
BUNDLED = Path(__file__).parent / "weights" / "nano"
FILES = ("config.json", "model.safetensors", "README.md")


def resolve_pretrained(source=None, *, revision=None):
    """Find the folder of a model.

    Parameters
    ----------
    source : str or path-like, optional
        None or ``"nano"`` for the bundled model; a local folder; or ``"hf://owner/name"`` (also
        ``"owner/name"`` where no such folder exists) on the Hugging Face hub, which needs the extra ``fiberifu[hub]``.
    revision : str, optional
        Commit, tag or branch on the hub.

    Returns
    -------
    `~pathlib.Path`

    Raises
    ------
    FileNotFoundError
        When a local folder does not exist.
    ValueError
        When the hub is asked for without its extra, or a name cannot be understood.
    """
    if source is None or source == BUNDLED.name:
        return BUNDLED
    text = str(source)
    if not text.startswith("hf://"):
        folder = Path(source).expanduser()
        if folder.is_dir():
            return folder
        if text.count("/") != 1 or text.startswith((".", "/", "~")):
            raise FileNotFoundError(
                f"source={text!r}: no such folder; give a model folder, 'hf://owner/name', or "
                "nothing for the bundled model"
            )
    name = text.removeprefix("hf://")
    if name.count("/") != 1 or "@" in name:
        raise ValueError(f"source={text!r}: a hub id is 'hf://owner/name'; give a revision as revision=")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"source={text!r} is not a local folder, and the hub needs pip install 'fiberifu[hub]'"
        ) from error
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
