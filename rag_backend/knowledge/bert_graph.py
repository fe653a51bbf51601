"""A BERT sentence encoder as an ONNX graph with 8-bit weights, built from its own safetensors.

Only the structure that is checked here is built: BERT with absolute positions and GELU, mean
pooling, unit vectors, no prompts. Weights are rounded to 8 bits with one scale an output channel;
activations are quantised while it runs, with one scale a tensor, so a graph is run for one text at
a time: what else is embedded must not change a text's vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

Array = npt.NDArray[np.float32]

_FUSED = "com.microsoft"
"""ONNX Runtime's own operators."""
_OPSET, _IR = 18, 9
_WANTED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True, slots=True)
class Bert:
    """A recognised encoder.

    Attributes:
        folder: Where it is.
        layers, heads, epsilon: From its config.json.
        max_tokens: Longest text in tokens, special ones included.
    """

    folder: Path
    layers: int
    heads: int
    epsilon: float
    max_tokens: int


def recognise(folder: Path) -> Bert | None:
    """The encoder in a sentence-transformers folder; None where anything is not as expected."""
    try:
        modules = [module["type"].rpartition(".")[2] for module in _json(folder, "modules.json")]
        config = _json(folder, "config.json")
        pooling = _json(folder, "1_Pooling/config.json")
        reading = _json(folder, "sentence_bert_config.json")
        extra = _json(folder, "config_sentence_transformers.json")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    differs = any(config.get(name, value) != value for name, value in _WANTED.items())
    modes = {name for name, value in pooling.items() if name.startswith("pooling_mode") and value}
    if (
        modules != ["Transformer", "Pooling", "Normalize"]
        or differs
        or modes != {"pooling_mode_mean_tokens"}
        or reading.get("do_lower_case")
        or any((extra.get("prompts") or {}).values())
        or not all((folder / name).is_file() for name in ("tokenizer.json", "model.safetensors"))
    ):
        return None
    positions = int(config["max_position_embeddings"])
    return Bert(
        folder,
        int(config["num_hidden_layers"]),
        int(config["num_attention_heads"]),
        float(config.get("layer_norm_eps", 1e-12)),
        min(int(reading.get("max_seq_length") or positions), positions),
    )


def build(bert: Bert) -> bytes:
    """The graph: `ids` (int64, 1 x tokens) to `vector` (float32, 1 x dimension, of unit length).

    Raises:
        KeyError, TypeError, ValueError: The weights are not those of such a model in float32.
    """
    loaded = load_file(bert.folder / "model.safetensors")
    weights = {name.removeprefix("bert."): value for name, value in loaded.items()}
    if any(value.dtype != np.float32 for value in weights.values() if value.dtype.kind == "f"):
        raise TypeError("only float32 weights are quantised")
    return _Graph(weights, bert).bytes()


class _Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self, weights: Mapping[str, Array], bert: Bert) -> None:
        self._weights = weights
        self._bert = bert
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def bytes(self) -> bytes:
        x = self._embeddings()
        for layer in range(self._bert.layers):
            x = self._layer(x, layer)
        axis = self._constant("axis", np.array([1], dtype=np.int64))
        mean = self._node("ReduceMean", [x, axis], "mean", keepdims=0)
        self._node("LpNormalization", [mean], "vector", axis=-1, p=2)
        size = self._weights["embeddings.word_embeddings.weight"].shape[1]
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "tokens"])],
            [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, size])],
            self._constants,
        )
        versions = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=_IR)
        serialized: bytes = model.SerializeToString()
        return serialized

    def _embeddings(self) -> str:
        name = "embeddings.{}.weight".format
        words = self._constant("words", self._weights[name("word_embeddings")])
        # One text at a time has one token type: its row is part of every position.
        rows = self._weights[name("position_embeddings")]
        types = self._weights[name("token_type_embeddings")]
        places = self._constant("places", rows + types[0])
        ids = self._node("Cast", ["ids"], "ids32", to=TensorProto.INT32)
        norm = self._norm_constants("embeddings.LayerNorm")
        inputs = [ids, "", words, places, "", *norm]
        epsilon = self._bert.epsilon
        return self._node("EmbedLayerNormalization", inputs, "x", "mask", epsilon=epsilon)

    def _layer(self, x: str, number: int) -> str:
        name = f"encoder.layer.{number}.{{}}".format
        parts = [name(f"attention.self.{part}") for part in ("query", "key", "value")]
        together = self._linear(x, parts, f"qkv{number}")
        three = [f"{part}{number}" for part in ("query", "key", "value")]
        self._node("Split", [together], *three, axis=2, num_outputs=3)
        heads = self._bert.heads
        seen = self._node("MultiHeadAttention", three, f"seen{number}", num_heads=heads)
        seen = self._linear(seen, [name("attention.output.dense")], f"attended{number}")
        x = self._norm(seen, x, name("attention.output.LayerNorm"), f"y{number}")
        inner = self._linear(x, [name("intermediate.dense")], f"inner{number}")
        inner = self._node("Gelu", [inner], f"gelu{number}")
        outer = self._linear(inner, [name("output.dense")], f"outer{number}")
        return self._norm(outer, x, name("output.LayerNorm"), f"x{number}")

    def _linear(self, x: str, names: Sequence[str], out: str) -> str:
        """x times the named layers' weights, side by side, plus their biases."""
        matrix = np.concatenate([self._weights[f"{name}.weight"] for name in names])
        bias = np.concatenate([self._weights[f"{name}.bias"] for name in names])
        scales = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / 127
        rounded = np.rint(matrix / scales[:, None]).astype(np.int8)
        inputs = [
            x,
            self._constant(f"{out}.weight", np.ascontiguousarray(rounded.T)),
            self._constant(f"{out}.scale", scales.astype(np.float32)),
            self._constant(f"{out}.zero", np.zeros(len(scales), dtype=np.int8)),
            self._constant(f"{out}.bias", bias),
        ]
        return self._node("DynamicQuantizeMatMul", inputs, out)

    def _norm(self, x: str, residual: str, name: str, out: str) -> str:
        inputs = [x, residual, *self._norm_constants(name)]
        return self._node("SkipLayerNormalization", inputs, out, epsilon=self._bert.epsilon)

    def _norm_constants(self, name: str) -> list[str]:
        return [
            self._constant(f"{name}.{part}", self._weights[f"{name}.{part}"])
            for part in ("weight", "bias")
        ]

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; the name of its first output."""
        standard = {"Cast", "Split", "ReduceMean", "LpNormalization"}
        domain = "" if operator in standard else _FUSED
        self._nodes.append(
            helper.make_node(operator, inputs, list(outputs), domain=domain, **attributes)
        )
        return outputs[0]


def _json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))
