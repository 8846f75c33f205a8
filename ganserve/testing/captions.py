"""Captioned pictures and a sentence encoder, both tiny, for families that make pictures of text."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 40, 30),
    "green": (40, 180, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 50),
}
WAYS = ("left", "right", "top", "bottom")
SIDE = 8

SIZE = 16
"""The length of a sentence's vector."""

TOKENS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"abcdefghijklmnopqrstuvwxyz0123456789.,!?",
    *COLOURS,
    *WAYS,
    "half",
    "the",
)


VOCABULARY = (*TOKENS, *(f"##{token}" for token in TOKENS if len(token) == 1))
"""Every token of the tiny encoder, by its number: special ones, words, single characters, and characters that go on."""

TOKENIZER = "tokenizer.json"


def write_captions(folder: Path) -> Path:
    """Write pictures of 8x8 pixels, one half of each in a colour, and ``metadata.jsonl`` with two captions of each; return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for colour, shade in COLOURS.items():
        for turn, way in enumerate(WAYS):
            pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
            pixels[:, : SIDE // 2] = shade
            name = f"{colour}-{way}.png"
            Image.fromarray(np.rot90(pixels, (0, 2, 3, 1)[turn]).copy()).save(folder / name)
            lines.append(json.dumps({"file_name": name, "text": [f"the {way} half {colour}", f"{colour} {way}"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def write_text_encoder(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of one layer with random weights and a tokenizer of letters and a few words into ``folder``, and return it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    inner, places = 2 * SIZE, 64
    config = {
        "model_type": "bert",
        "vocab_size": len(VOCABULARY),
        "hidden_size": SIZE,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": inner,
        "max_position_embeddings": places,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]), "utf-8")
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n\n# tiny-encoder\n", "utf-8")
    (folder / TOKENIZER).write_text(json.dumps(tokenizer()), "utf-8")
    layer = "encoder.layer.0"
    shapes = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), SIZE),
        "embeddings.position_embeddings.weight": (places, SIZE),
        "embeddings.token_type_embeddings.weight": (2, SIZE),
        **{f"{layer}.attention.self.{name}.weight": (SIZE, SIZE) for name in ("query", "key", "value")},
        f"{layer}.attention.output.dense.weight": (SIZE, SIZE),
        f"{layer}.intermediate.dense.weight": (inner, SIZE),
        f"{layer}.output.dense.weight": (SIZE, inner),
    }
    norms = ("embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm")
    random = np.random.default_rng(seed)
    weights = {name: random.normal(0, SIZE**-0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if name.startswith(layer):
            weights[name.replace("weight", "bias")] = random.normal(0, 0.1, shape[:1]).astype(np.float32)
    weights |= {f"{name}.weight": random.normal(1, 0.1, SIZE).astype(np.float32) for name in norms}
    weights |= {f"{name}.bias": np.zeros(SIZE, np.float32) for name in norms}
    save_file(weights, folder / "model.safetensors")
    return folder


def write_onnx_encoder(folder: Path, *, heeds_mask: bool = True, seed: int = 0) -> Path:
    """Write ``model.onnx``, which gives the mean of random vectors of a text's tokens, and a tokenizer into ``folder``, and return it.

    Its inputs are called as transformers calls them. Without ``heeds_mask`` the mean is that of padding too, which is wrong.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(seed).normal(size=(len(VOCABULARY), SIZE)).astype(np.float32)
    axes = numpy_helper.from_array(np.array([1]), "axes")
    last = numpy_helper.from_array(np.array([2]), "last")
    names = ("input_ids", "attention_mask", "token_type_ids")
    counted = "attention_mask" if heeds_mask else "everywhere"
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Equal", ["input_ids", "input_ids"], ["same"]),
        helper.make_node("Cast", ["same"], ["everywhere"], to=TensorProto.INT64),
        helper.make_node("Add", [counted, "token_type_ids"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["tokens", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axes"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axes"], ["count"]),
        helper.make_node("Div", ["total", "count"], ["sentence_embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
        [
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", "sequence", SIZE]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", SIZE]),
        ],
        [numpy_helper.from_array(table, "table"), axes, last],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, folder / "model.onnx")
    (folder / TOKENIZER).write_text(json.dumps(tokenizer()), "utf-8")
    return folder


def tokenizer() -> dict[str, object]:
    """The content of a tokenizer.json of BERT's kind, whose vocabulary is :data:`VOCABULARY`."""
    tokens = VOCABULARY
    special = {"[CLS]": tokens.index("[CLS]"), "[SEP]": tokens.index("[SEP]")}
    ends = [{"SpecialToken": {"id": name, "type_id": 0}} for name in special]
    single = [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False}
            for number, token in enumerate(tokens[:4])
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single,
            "special_tokens": {
                name: {"id": name, "ids": [number], "tokens": [name]} for name, number in special.items()
            },
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokens)},
        },
    }
