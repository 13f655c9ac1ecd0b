"""Weights of timm's networks: a file that the user names, the caches of Hugging Face and torch, or a download."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import constants

from nasforge.api.fit.log import NO_PRETRAINED
from nasforge.core.errors import ConfigError, one_line
from nasforge.core.say import Say
from nasforge.models.timm_backbone import check_file, check_known, check_weights

SMALL = (
    "mobilenetv3_small_100.lamb_in1k",
    "mobilenetv4_conv_small.e2400_r224_in1k",
    "efficientnet_lite0.ra_in1k",
    "convnext_atto.d2_in1k",
    "resnet18.a1_in1k",
    "resnet18.tv_in1k",
)
"""Networks that are looked for in the caches, the cheapest first."""
_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a repository of Hugging Face, the preferred one first."""
_PATIENCE_S = 10.0


def check_asked(weights: str | None, backbone: str | None, pretrained: str | None) -> None:
    """Refuse weights and names that cannot be, before any work is done.

    Raises:
        ConfigError: a file that is not there or not of its network, a name that timm does not know, or two files of
            weights for one network.
    """
    name = None if weights is None else checked_weights(Path(weights), backbone)
    if pretrained not in (None, NO_PRETRAINED):
        check_known(str(pretrained), "pretrained")
        if name == pretrained:
            raise ConfigError(
                f"pretrained: got '{pretrained}', the network of {weights}, and one network has one file of weights. "
                "Leave out --pretrained or --weights",
                kind="conflict",
                key="pretrained",
            )


def backbones_of(
    weights: str | None, backbone: str | None, pretrained: str | None, say: Say
) -> tuple[dict[str, str], str]:
    """Return the networks that take part, timm's name -> file of weights, and the reason in words.

    Args:
        weights: the file that the user gives.
        backbone: its network; None: its name tells it.
        pretrained: the network that the user asks for, downloaded where it is in no cache; or `none`.
        say: takes a line for the user.

    Raises:
        ConfigError: the weights cannot be downloaded.
    """
    files: dict[str, str] = {}
    if weights is not None:
        files[backbone or name_of(Path(weights)) or ""] = weights
    if pretrained not in (None, NO_PRETRAINED):
        name = str(pretrained)
        files[name] = str(cached(name) or download(name, say))
    if files:
        return files, f"{' and '.join(files)}, as asked for"
    if pretrained == NO_PRETRAINED:
        return files, "none, as asked for"
    files = {name: str(file) for name, file in small_ones_cached().items()}
    if files:
        return files, f"the weights of {' and '.join(files)} are in a local cache"
    return files, "none, the local caches have no small network of timm; --pretrained NAME downloads one"


def checked_weights(file: Path, name: str | None) -> str:
    """Load a file of weights once, to refuse it before any work is done.

    Args:
        file: `.safetensors`, or a checkpoint of torch that holds tensors alone.
        name: timm's name of the network; None: the file's name tells it.

    Returns:
        timm's name of the network.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is not of this network.
    """
    check_file(file)
    if name is None:
        name = name_of(file)
    if name is None:
        raise ConfigError(
            f"weights: the name of {file} tells no network of timm. Give its name with --backbone",
            kind="missing",
            key="backbone",
        )
    check_weights(file, name, "backbone")
    return name


def name_of(file: Path) -> str | None:
    """Return timm's name of the network, as far as the path of its weights tells it; None: it does not.

    `resnet18.a1_in1k.safetensors`, `resnet18_a1_0-d63eafa0.pth`, `resnet18/model.safetensors`, and the folders of
    Hugging Face's cache, `models--timm--resnet18.a1_in1k/...`, tell it.
    """
    folders = [part.rpartition("--")[2] for part in file.parts[:-1] if part.startswith("models--")]
    pretrained = set(timm.list_pretrained())
    for word in (file.stem, file.parent.name, *folders):
        if word in pretrained or (timm.is_model(word) and "." not in word):
            return word
    prefixes = [name for name in timm.list_models() if file.stem.startswith((f"{name}_", f"{name}-", f"{name}."))]
    return max(prefixes, key=len, default=None)


def cached(name: str) -> Path | None:
    """Return the file of timm's weights in the cache of Hugging Face or torch; None: they are not there."""
    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        return None
    folder = os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE
    for file in _FILES if config.hf_hub_id else ():
        kept_file = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file, cache_dir=folder)
        if isinstance(kept_file, str):
            return Path(kept_file)
    if config.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / str(config.url).rpartition("/")[2]
        if path.is_file():
            return path
    return None


def small_ones_cached() -> dict[str, Path]:
    """Return the networks of `SMALL` whose weights are in a cache, one per architecture; nothing is downloaded."""
    files: dict[str, Path] = {}
    for name in SMALL:
        known = {other.partition(".")[0] for other in files}
        file = None if name.partition(".")[0] in known else cached(name)
        if file is not None:
            files[name] = file
    return files


def download(name: str, say: Say) -> Path:
    """Download timm's weights into the cache of Hugging Face, after size and licence are printed.

    Raises:
        ConfigError: timm has no weights of this name, or they cannot be reached.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ConfigError(
            f"pretrained: timm has no weights of '{name}' to download. Choose another network",
            kind="missing",
            key="pretrained",
        )
    repository, file = config.hf_hub_id, _FILES[0]
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        # asked first, because the download of Hugging Face tries for almost a minute without a connection
        request = urllib.request.Request(huggingface_hub.hf_hub_url(repository, file), method="HEAD")  # noqa: S310
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
            megabytes = int(answer.headers["Content-Length"] or 0) / 1e6
        licence = config.license or "not stated"
        say(f"downloading the weights of {name}: {megabytes:.0f} MB, licence {licence}, from hf.co/{repository}")
        folder = os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE
        return Path(huggingface_hub.hf_hub_download(repository, file, cache_dir=folder))
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error, 120)
        raise ConfigError(
            f"pretrained: the weights of '{name}' cannot be downloaded ({reason}). Fetch {file} from "
            f"hf.co/{repository} elsewhere, and give it with --weights FILE --backbone {name}",
            kind="failed",
            key="pretrained",
        ) from None
