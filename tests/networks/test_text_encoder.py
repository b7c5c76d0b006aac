import pytest
import torch
from transformers import BertTokenizer

from scripts.labels import ClassTable
from scripts.networks.encoders import UNetTransformerEncoder
from scripts.networks.prompt_model import load_prompt_model, save_prompt_model
from scripts.networks.prompts import Caption, class_prompts
from scripts.networks.text_encoder import BertTextEncoder, ClassVectors, LearnedPrompts, prompt_vocabulary
from scripts.networks.vision_language import VisionLanguageModel

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return class_prompts(ClassTable.load())


class TestPromptVocabulary:
    def test_value(self):
        words = prompt_vocabulary(["Image of L4/L5", "image of the Rückenmark, T_1"])
        assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        assert words[5:] == sorted(["image", "of", "l4", "l5", "/", "the", "ruckenmark", ",", "t", "1", "_"])


class TestBertTextEncoder:
    def test_shape(self, prompts):
        text = BertTextEncoder(prompts, config=BERT).eval()
        embeddings = text()
        assert embeddings.shape == (20, text.embed_dim) == (20, 32)
        assert torch.pdist(embeddings).min() > 0
        assert text.lower_case

    def test_padding_does_not_count(self, prompts):
        text = BertTextEncoder(prompts, config=BERT).eval()
        short, long = prompts[0], prompts[11]
        assert len(long.split()) > len(short.split())
        row = prompts.index(short)
        alone = {"input_ids": text.input_ids[[row]], "attention_mask": text.attention_mask[[row]]}
        alone = {name: ids[:, : alone["attention_mask"].sum()] for name, ids in alone.items()}
        torch.testing.assert_close(text.bert(**alone).last_hidden_state[:, 0], text()[[row]])

    def test_dropout(self, prompts):
        quiet, noisy = BertTextEncoder(prompts, config=BERT).train(), BertTextEncoder(prompts, config=BERT, dropout=0.1)
        torch.testing.assert_close(quiet(), quiet())
        assert (noisy() - noisy()).abs().max() > 0.01

    def test_every_weight_gets_a_gradient(self, prompts):
        text = BertTextEncoder(prompts, config=BERT)
        text().square().sum().backward()
        assert [n for n, p in text.named_parameters() if p.grad is None] == []

    def test_captions(self, prompts):
        caption = Caption(ClassTable.load())
        text = BertTextEncoder(prompts, config=BERT, caption=caption).eval()
        present = torch.zeros(3, 20, dtype=torch.bool)
        present[0, [0, 11, 12]] = present[2, [0, 11, 12]] = present[1, 2] = True
        sentence, words, word_mask = text.captions(present)
        assert torch.equal(sentence[0], sentence[2])
        tokens = text.tokenizer([caption([0, 11, 12])], return_tensors="pt")
        hidden = text.bert(**tokens).last_hidden_state[0]
        torch.testing.assert_close(sentence[0], hidden[0])
        spelt = text.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
        named = [k for k, token in enumerate(spelt) if token.isalnum()]  # no comma, nothing special
        assert "," in spelt
        assert word_mask[0].sum() == len(named)
        torch.testing.assert_close(words[0, : len(named)], hidden[named])
        assert (words[1][~word_mask[1]] == 0).all()

    def test_sub_words_are_merged(self):
        text = BertTextEncoder(["a disc"], config=BERT, caption=lambda classes: "a disc, di ##sc")
        pieces = {"[CLS]": 0, "a": 1, "di": 2, "##sc": 3, ",": 4, "disc": 5, "[SEP]": 6, "[PAD]": 7}
        text.tokenizer.convert_ids_to_tokens = lambda ids: [{v: k for k, v in pieces.items()}[i] for i in ids]
        word_index = text._word_index(torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]]))
        assert word_index.tolist() == [[-1, 0, 1, 1, -1, 2, -1, -1]]

    def test_without_captions(self, prompts):
        text = BertTextEncoder(prompts, config=BERT)
        assert "," not in text.vocabulary
        with pytest.raises(ValueError, match="this objective reads captions"):
            text.captions(torch.ones(1, 20, dtype=torch.bool))

    def test_folder(self, prompts, tmp_path):
        text = BertTextEncoder(prompts, config=BERT).eval()
        text.bert.save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").write_text("\n".join(text.vocabulary) + "\n")
        loaded = BertTextEncoder(prompts, pretrained=str(tmp_path)).train()  # no dropout here either
        torch.testing.assert_close(loaded(), text())
        assert loaded.description() == {"kind": "bert", "pretrained": str(tmp_path), "lower_case": True}
        with pytest.raises(ValueError, match="cannot spell the prompt 'a picture'"):
            BertTextEncoder(["a picture"], pretrained=str(tmp_path))

    def test_vocabulary_file_gives_words(self, prompts, tmp_path):
        text = BertTextEncoder(prompts, config=BERT)
        (tmp_path / "vocab.txt").write_text("\n".join(text.vocabulary) + "\n")
        tokens = BertTokenizer.from_pretrained(tmp_path).convert_ids_to_tokens(text.input_ids[0])
        assert tokens[: tokens.index("[SEP]")] == ["[CLS]", *prompts[0].lower().split()]

    def test_exception(self, prompts, tmp_path):
        with pytest.raises(RuntimeError, match=r"text encoder '.*nowhere' cannot be loaded.*set `config` to train"):
            BertTextEncoder(prompts, pretrained=str(tmp_path / "nowhere"))
        with pytest.raises(ValueError, match="needs `pretrained` or `config`"):
            BertTextEncoder(prompts, pretrained=None)
        BertTextEncoder(prompts, config=BERT).bert.save_pretrained(tmp_path)
        with pytest.raises((RuntimeError, ValueError), match=r"tokenizer .* cannot be loaded|cannot spell"):
            BertTextEncoder(prompts, pretrained=str(tmp_path))


class TestLearnedPrompts:
    @pytest.fixture(params=["config", "folder"])
    def source(self, request, prompts, tmp_path):
        """Arguments of a text encoder of random weights, or of one that is read from a folder."""
        if request.param == "config":
            return {"config": BERT}
        text = BertTextEncoder(prompts, config=BERT)
        text.bert.save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").write_text("\n".join(text.vocabulary) + "\n")
        return {"pretrained": str(tmp_path)}

    @staticmethod
    def pair(prompts, source, **options):
        """A plain encoder and one of learned prompts with the same weights of BERT."""
        torch.manual_seed(0)
        plain = BertTextEncoder(prompts, **source)
        torch.manual_seed(0)
        return plain, LearnedPrompts(prompts, **source, **options)

    @pytest.mark.parametrize("context", [1, 4, 5])
    def test_start_is_the_wording(self, prompts, source, context):
        plain, learned = self.pair(prompts, source, context=context)
        assert learned.context.shape == (context, learned.embed_dim)
        torch.testing.assert_close(learned(), plain())

    def test_context_takes_the_place_of_its_words_alone(self, prompts, source):
        plain, learned = self.pair(prompts, source)
        torch.testing.assert_close(learned.context, plain.bert.get_input_embeddings()(plain.input_ids[7, 1:5]))
        with torch.no_grad():
            learned.context.copy_(learned.bert.get_input_embeddings()(plain.input_ids[3, [2, 1, 4, 3]]))
            plain.input_ids[:, 1:5] = plain.input_ids[:, [2, 1, 4, 3]]
        torch.testing.assert_close(learned(), plain())

    def test_gradient_reaches_the_context_alone(self, prompts, source):
        _, learned = self.pair(prompts, source)
        learned().square().sum().backward()
        assert [n for n, p in learned.named_parameters() if p.grad is not None] == ["context"]
        assert learned.context.grad.abs().amax(1).min() > 0

    def test_gradient_reaches_all_that_is_not_frozen(self, prompts):
        learned = LearnedPrompts(prompts, config=BERT, frozen=False)
        learned().square().sum().backward()
        assert [n for n, p in learned.named_parameters() if p.grad is None] == []

    def test_checkpoint(self, prompts, source, tmp_path):
        """The stage-1 checkpoint has the usual form: the prompts are a matrix."""
        torch.manual_seed(0)
        vision = UNetTransformerEncoder((4, 8), width=16, layers=1, heads=2, output_stride=2)
        model = VisionLanguageModel(vision, LearnedPrompts(prompts, **source), embed_dim=12)
        start = model.prompt_embeddings().detach()
        model.text.context.data.normal_()
        names = ClassTable.load().names
        save_prompt_model(model, tmp_path / "prompt", names, range(20))
        loaded = load_prompt_model(tmp_path / "prompt", names)
        torch.testing.assert_close(loaded.prompt_matrix, model.prompt_embeddings().detach())
        assert not torch.allclose(loaded.prompt_matrix, start)
        assert not any("context" in name for name in loaded.state_dict())
        assert loaded.info["text"] | {"pretrained": None} == {
            "kind": "bert", "pretrained": None, "lower_case": True, "learned_context": 4, "frozen": True
        }  # fmt: skip

    def test_state_dict(self, prompts, source):
        one, other = (LearnedPrompts(prompts, **source) for _ in range(2))
        one.context.data.normal_()
        other.load_state_dict(one.state_dict())
        torch.testing.assert_close(other(), one())

    @pytest.mark.parametrize("context", [0, 6, 7])
    def test_exception(self, prompts, context):
        # the sixth word is "a", "an" or "the"
        with pytest.raises(ValueError, match=f"number of tokens that all prompts begin with, got {context}"):
            LearnedPrompts(prompts, config=BERT, context=context)
        with pytest.raises(ValueError, match="all prompts begin with, got 2"):
            LearnedPrompts(["spine", "spine image"], config=BERT, context=2)


class TestClassVectors:
    def test_shape(self, prompts):
        vectors = ClassVectors(prompts, 16)
        assert vectors().shape == (20, vectors.embed_dim) == (20, 16)
        assert vectors().requires_grad
