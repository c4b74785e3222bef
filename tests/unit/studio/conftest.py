from __future__ import annotations

import pytest
from studio import painter
from studio.nets.tokenizer import learn_tokenizer
from transformers import CLIPTokenizer


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    return learn_tokenizer([painter.caption(scene) for scene in painter.training_scenes(50, seed=0)])
