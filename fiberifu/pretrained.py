"""From a name, a folder or a hub id to a checked local model folder."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

__all__ = ["BUNDLED", "PUBLISHED", "hub_file", "published_folder", "recorded_sha256", "resolve_pretrained"]

#: Folder of the weights that come with the package.
BUNDLED = Path(__file__).parent / "weights" / "nano"
FILES = ("config.json", "model.safetensors", "README.md")
#: Hub repository, and file in it, of the network of Peng et al. (2026).
PUBLISHED = ("pengzehao/MultimodalHF", "pretrained.ckpt")
#: Commit of it that is fetched when none is asked for. None is known here: the first one fetched is recorded beside the
#: converted weights, with the sha256 of the file, and holds from then on.
PUBLISHED_REVISION = None
RECORD = "sha256"  # of the weights, beside them


def resolve_pretrained(source=None, *, revision=None):
    """Find the folder of a model.

    Parameters
    ----------
    source : str or path-like, optional
        None or ``"nano"`` for the bundled model; a local folder; or ``"hf://owner/name"`` (also
        ``"owner/name"`` where no such folder exists) on the Hugging Face hub, which needs the extra ``fiberifu[hub]``.
        ``"pengzehao/MultimodalHF"`` is fetched and converted once, see `published_folder`.
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
        if folder.is_file():
            raise ValueError(
                f"source={text!r} is a file; a checkpoint of the published network is made a model folder by "
                f"'fiberifu convert-checkpoint {text} FOLDER'"
            )
        if text.count("/") != 1 or text.startswith((".", "/", "~")):
            raise FileNotFoundError(
                f"source={text!r}: no such folder; give a model folder, 'hf://owner/name', or "
                "nothing for the bundled model"
            )
    name = text.removeprefix("hf://")
    if name.count("/") != 1 or "@" in name:
        raise ValueError(f"source={text!r}: a hub id is 'hf://owner/name'; give a revision as revision=")
    if name == PUBLISHED[0]:
        return published_folder(revision)
    hub = _hub(text)
    return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))


def _hub(source):
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"source={source!r} is not a local folder, and the hub needs pip install 'fiberifu[hub]'"
        ) from error
    return huggingface_hub


def hub_file(name, file, revision=None):
    """Fetch one file of a hub repository, or find it in the hub's cache.

    Parameters
    ----------
    name : str
        ``"owner/name"``.
    file : str
    revision : str, optional

    Returns
    -------
    path : `~pathlib.Path`
    commit : str or None
        The commit it is from, where the cache tells.

    Raises
    ------
    ValueError
        Without the extra ``fiberifu[hub]``.
    OSError
        When it cannot be had, with what to do.
    """
    hub = _hub(name)
    try:
        path = Path(hub.hf_hub_download(repo_id=name, filename=file, revision=revision))
    except Exception as error:  # of the hub, of its network library, of the system
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise OSError(
            f"{file} of huggingface.co/{name} cannot be fetched ({reason}). "
            f"Without a network: fetch it elsewhere, then 'fiberifu convert-checkpoint {file} FOLDER', and give FOLDER"
        ) from error
    parts = path.parts  # .../snapshots/<commit>/<file>
    places = [i for i, part in enumerate(parts[:-1]) if part == "snapshots"]
    commit = parts[places[-1] + 1] if places else revision
    return path, commit


def published_folder(revision=None):
    """Model folder of the published network: fetched from the hub, checked and converted at first use.

    It is kept in ``fiberifu/published`` of the user's cache folder, with the commit and the sha256 of the file it was
    made from, and the sha256 of the weights, which is checked. From then on no network is needed; a commit that was
    fetched before must have the same file.

    Parameters
    ----------
    revision : str, optional
        Commit, tag or branch; by default the one recorded.

    Returns
    -------
    `~pathlib.Path`

    Raises
    ------
    ValueError
        For a file that is not what it should be, or was another one before; for a revision that git would not take.
    OSError
        When it cannot be fetched.
    """
    from .model import convert_published, weights_sha256

    cache = _cache()
    revision = PUBLISHED_REVISION if revision is None else revision
    folder = cache / _folder_name(revision)
    if (folder / RECORD).is_file():
        if weights_sha256(folder) != (folder / RECORD).read_text(encoding="ascii").strip():
            raise ValueError(f"{folder}: model.safetensors is not what was written there; remove the folder")
        return folder
    path, commit = hub_file(*PUBLISHED, revision)
    known = recorded_sha256(commit)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as half:
        made = Path(half) / "model"
        convert_published(path, made, sha256=known, revision=commit)
        (made / RECORD).write_text(weights_sha256(made) + "\n", encoding="ascii")
        if folder.exists():  # what a killed run left
            shutil.rmtree(folder)
        os.replace(made, folder)
    return folder


def _cache():
    from astropy.config.paths import get_cache_dir_path

    return get_cache_dir_path("fiberifu") / "published"


def _folder_name(revision):
    """Name of a revision's folder, one for each: no part of it, such as .., leads elsewhere."""
    if revision is None:
        return "default"
    if not isinstance(revision, str) or revision.strip(". ") == "" or len(revision) > 150:
        raise ValueError(f"revision={str(revision)[:150]!r}: give a commit, tag or branch of the hub's repository")
    return "at-" + quote(revision, safe="")


def recorded_sha256(commit):
    """Checksum of the published file when a folder was made of the same commit before, or None."""
    for config in sorted(_cache().glob("*/config.json")):
        passport = json.loads(config.read_text(encoding="utf-8")).get("passport", {})
        if commit is not None and passport.get("source_revision") == commit:
            return passport.get("source_sha256")
    return None
