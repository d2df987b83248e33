"""Language models as one service: write a continuation, weigh continuations, embed a text.

The model is on this machine (a wheel, a folder, a hub name), behind an OpenAI-compatible address,
or a script for tests. Whatever it is, `find_language_model` puts a cache on disk before it: the
same model is never asked the same twice, and an interrupted job has lost at most one block.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tastemaker.console import Progress
from tastemaker.content.local_language import GREEDY, LocalLanguageModel, Writing
from tastemaker.content.text import HashingEncoder
from tastemaker.errors import ConfigError, TastemakerError
from tastemaker.files import cache_dir

__all__ = [
    "LanguageModel",
    "LanguageModelError",
    "RememberingLanguageModel",
    "RemoteLanguageModel",
    "ScriptedLanguageModel",
    "find_language_model",
]

_BLOCK = 64  # questions between two writes to the cache


class LanguageModelError(TastemakerError, RuntimeError):
    """A language model did not answer, or not what was asked: the message says which and why."""


class LanguageModel(Protocol):
    """What methods ask of a language model."""

    @property
    def identity(self) -> str:
        """A string that changes whenever the answers would: part of every cache key."""
        ...

    def generate(self, prompts: Sequence[str], writing: Writing = GREEDY) -> list[str]:
        """What comes after each prompt, without the prompt."""
        ...

    def score(self, prompt: str, continuations: Sequence[str]) -> NDArray[np.float32]:
        """Log-probability of each continuation after the prompt, summed over its tokens, [n]."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector a text, [n, D] float32."""
        ...


@cache
def find_language_model(name: str) -> LanguageModel:
    """The language model of that name behind the prompt cache, the same object each time.

    Args:
        name: `"smollm2"`, `"tiny-random"`, a model folder, a hub name, or the address of an
            OpenAI-compatible server with the model behind a `#`, such as
            `"http://localhost:8000/v1#my-model"` (key in `OPENAI_API_KEY`).

    Raises:
        ConfigError: when there is no such model, or an address names none.
        MissingExtraError: naming the extra when packages or weights are not installed.
    """
    if name.startswith(("http://", "https://")):
        address, _, model = name.partition("#")
        if not model:
            raise ConfigError(f"language model {name!r}: name the model after a '#'")
        return RememberingLanguageModel(RemoteLanguageModel(address, model))
    return RememberingLanguageModel(LocalLanguageModel.find(name))


@dataclass(frozen=True)
class ScriptedLanguageModel:
    """Answers from a function or table, for tests and demonstrations.

    Attributes:
        answer: prompt -> answer.
        name: part of its identity; give another one for other answers.
    """

    answer: Callable[[str], str] | Mapping[str, str]
    name: str = "scripted"

    @property
    def identity(self) -> str:
        """Its name."""
        return f"scripted-{self.name}"

    def generate(self, prompts: Sequence[str], writing: Writing = GREEDY) -> list[str]:
        """The scripted answers."""
        del writing
        answer = self.answer
        return [answer(p) if callable(answer) else answer[p] for p in prompts]

    def score(self, prompt: str, continuations: Sequence[str]) -> NDArray[np.float32]:
        """0 for the scripted answer, minus the number of characters for every other."""
        (answer,) = self.generate([prompt])
        return np.array([0 if c == answer else -len(c) for c in continuations], np.float32)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Hashed words."""
        return HashingEncoder().encode(texts)


class RemoteLanguageModel:
    """A model behind an OpenAI-compatible address.

    `score` asks `/completions` to echo the prompt with log-probabilities, which servers of open
    models (vLLM, llama.cpp) do and some hosted ones refuse.

    Args:
        address: up to and with the version, e.g. `"http://localhost:8000/v1"`.
        model: name of the model there.
        attempts: how often a question is asked when the server is busy or away.
        pause: seconds before the second attempt, doubled before each further one.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        attempts: int = 4,
        pause: float = 1.0,
        timeout: float = 300.0,
    ) -> None:
        self.address, self.model = address.rstrip("/"), model
        self.attempts, self.pause, self.timeout = attempts, pause, timeout

    @property
    def identity(self) -> str:
        """Address and model: what stands behind them is the server's word."""
        return f"remote-{self.address}#{self.model}"

    def generate(self, prompts: Sequence[str], writing: Writing = GREEDY) -> list[str]:
        """Greedy answers, one request a prompt; beams are left to the server.

        Raises:
            LanguageModelError: when the server does not answer, or not in this form.
        """
        asked = {"max_tokens": writing.max_new_tokens, "temperature": 0}
        answers = []
        for prompt in prompts:
            if writing.chat:
                messages = [{"role": "user", "content": prompt}]
                reply = self._ask("chat/completions", {**asked, "messages": messages})
                answers.append(self._found(reply, "choices", 0, "message", "content"))
            else:
                reply = self._ask("completions", {**asked, "prompt": prompt})
                answers.append(self._found(reply, "choices", 0, "text"))
        return answers

    def score(self, prompt: str, continuations: Sequence[str]) -> NDArray[np.float32]:
        """Summed log-probabilities of the tokens that begin behind the prompt, [n].

        Raises:
            LanguageModelError: when the server does not answer, or not in this form.
        """
        sums = []
        for continuation in continuations:
            asked = {"prompt": prompt + continuation, "max_tokens": 0, "echo": True, "logprobs": 1}
            reply = self._ask("completions", {**asked, "temperature": 0})
            places = self._found(reply, "choices", 0, "logprobs", "text_offset")
            values = self._found(reply, "choices", 0, "logprobs", "token_logprobs")
            behind = [v for at, v in zip(places, values, strict=True) if at >= len(prompt)]
            sums.append(float(sum(behind)))
        return np.array(sums, np.float32)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The server's embeddings, [n, D].

        Raises:
            LanguageModelError: when the server does not answer, or not in this form.
        """
        reply = self._ask("embeddings", {"input": list(texts)})
        rows = self._found(reply, "data")
        ordered = sorted(rows, key=lambda row: int(row["index"]))
        return np.array([row["embedding"] for row in ordered], np.float32)

    def _found(self, reply: Any, *path: str | int) -> Any:
        """What stands in a reply at a path."""
        for step in path:
            try:
                reply = reply[step]
            except (KeyError, IndexError, TypeError):
                raise LanguageModelError(
                    f"{self.address}: the answer has no {'.'.join(map(str, path))}; the address "
                    "must speak the OpenAI protocol and allow what was asked"
                ) from None
        return reply

    def _ask(self, route: str, question: Mapping[str, Any]) -> Any:
        """One request, asked again while the server is busy or away."""
        request = urllib.request.Request(  # noqa: S310 - the address is the user's own setting
            f"{self.address}/{route}",
            data=json.dumps({"model": self.model, **question}).encode(),
            headers={"Content-Type": "application/json", **_authorization()},
        )
        why = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:  # noqa: S310
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.reason}: {error.read(500).decode(errors='replace')}"
                if error.code != 429 and error.code < 500:
                    break
            except (OSError, ValueError) as error:
                why = str(error)
        raise LanguageModelError(
            f"{self.address}/{route} (model {self.model!r}) did not answer: {why}; check the "
            "address, the model's name and OPENAI_API_KEY"
        )


def _authorization() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


Question = TypeVar("Question")


class RememberingLanguageModel:
    """A language model with a cache on disk before it, keyed by model, question and settings.

    Args:
        model: whom to ask what was never asked before.
        folder: where answers are kept; `None` is the user's cache.
    """

    def __init__(self, model: LanguageModel, folder: Path | None = None) -> None:
        self.model, self.folder = model, folder

    @property
    def identity(self) -> str:
        """That of the model."""
        return self.model.identity

    def generate(self, prompts: Sequence[str], writing: Writing = GREEDY) -> list[str]:
        """What comes after each prompt."""

        def ask(block: list[str]) -> list[bytes]:
            return [text.encode() for text in self.model.generate(block, writing)]

        kept = self._answers("generate", asdict(writing), list(prompts), ask)
        return [answer.decode() for answer in kept]

    def score(self, prompt: str, continuations: Sequence[str]) -> NDArray[np.float32]:
        """Log-probability of each continuation, [n]."""

        def ask(block: list[str]) -> list[bytes]:
            return [np.float32(v).tobytes() for v in self.model.score(prompt, block)]

        kept = self._answers("score", prompt, list(continuations), ask)
        return np.frombuffer(b"".join(kept), np.float32)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector a text, [n, D]."""

        def ask(block: list[str]) -> list[bytes]:
            return [np.asarray(v, np.float32).tobytes() for v in self.model.embed(block)]

        kept = self._answers("embed", None, list(texts), ask)
        return np.frombuffer(b"".join(kept), np.float32).reshape(len(kept), -1)

    def _answers(
        self,
        kind: str,
        settings: Any,
        questions: list[str],
        ask: Callable[[list[str]], list[bytes]],
    ) -> list[bytes]:
        """The answers to questions, those never asked before in blocks that are kept at once."""
        keys = [
            hashlib.sha256(json.dumps([kind, settings, question]).encode()).digest()
            for question in questions
        ]
        with self._opened() as store:
            known = _read(store, keys)
            new = {key: q for key, q in zip(keys, questions, strict=True) if key not in known}
            pending = list(new.items())
            with Progress(f"asking {self.identity[:32]}", len(pending), unit="prompts") as progress:
                for start in range(0, len(pending), _BLOCK):
                    block = pending[start : start + _BLOCK]
                    answers = ask([question for _, question in block])
                    fresh = {key: a for (key, _), a in zip(block, answers, strict=True)}
                    with store:
                        store.executemany(
                            "INSERT OR REPLACE INTO answers VALUES (?, ?)", fresh.items()
                        )
                    known.update(fresh)
                    progress.advance(len(block))
        return [known[key] for key in keys]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        folder = cache_dir() / "language" if self.folder is None else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(self.identity.encode()).hexdigest()[:32]
        with closing(sqlite3.connect(folder / f"{name}.sqlite", timeout=60)) as store:
            store.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB)")
            yield store


def _read(store: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """The kept answers to those of the questions that have one."""
    known: dict[bytes, bytes] = {}
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        marks = ",".join("?" * len(some))
        rows = store.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", some)  # noqa: S608
        known.update(rows.fetchall())
    return known
