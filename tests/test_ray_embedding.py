"""What Ray Data calls, called as Ray Data does: with dicts of arrays."""

import numpy as np
import pytest

from unlabel.ray_embedding import EmbedBatch


def test_a_batch_gets_its_vectors_and_loses_rows_without_text(tmp_path, make_encoder, sentences):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path)
    embed = EmbedBatch(str(tmp_path), column="said", normalize=True, device="cpu")
    texts = np.array([sentences[0], None, "  ", sentences[1]], dtype=object)
    made = embed({"said": texts, "id": np.arange(4)})
    assert made["id"].tolist() == [0, 3] and made["said"].tolist() == sentences[:2]
    expected = encoder.encode(sentences[:2])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(made["embedding"], expected, atol=1e-6)
    nothing = embed({"said": texts[1:3], "id": np.arange(2)})
    assert nothing["embedding"].shape == (0, 32) and len(nothing["id"]) == 0
    with pytest.raises(ValueError, match="No column 'said' among id"):
        embed({"id": np.arange(2)})
