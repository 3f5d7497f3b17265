"""Writes the tokenizer fixtures: small models trained here, and what Python makes of a few hundred texts with them.

    pip install "transformers==4.57.6" sentencepiece==0.2.2 tokenizers protobuf
    python scripts/golden/tokenizer.py --out test/fixtures/tokenizer --example examples/models/tiny-ja-neox

transformers must be a 4.x: T5Tokenizer of 5.x is another tokenizer, with fixed ids and without byte fallback. SentencePiece before 0.2.2
breaks some ties between equally good paths another way.
"""
import argparse
import base64
import contextlib
import io
import json
import pathlib
import random
import unicodedata

import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2

PLACES = "公園 駅前 図書館 海辺 商店街 美術館 温泉 水族館 神社 港 牧場 湖".split()
THINGS = "カレー うどん 古い小説 赤い傘 時計 手袋 写真 自転車 りんごのケーキ 抹茶のアイス".split()
DEEDS = "を食べました。|を買った。|をもらったよ！|を見つけましたか？|を忘れてしまった。|について、友人と話した。".split("|")
WHEN = "今日は、|昨日|来週の月曜日に|午後3時から|2024年5月|寒い朝、|Monday morning, ".split("|")

# Texts that have gone wrong somewhere: width forms, combining marks, joiners, controls, white space, special tokens,
# bytes of many lengths.
EDGES = [
    "", " ", "  ", "\n", "\n\n", "\t", "\u3000", " \u3000\t\n ", "a", "あ", "。", "😃", "😃😃", " 😃", "😃 ", "今日は晴れ 😃", "今日は晴れ😃\n明日は雨 😃",
    "\n今日は", "今日は\n", "一行目\n二行目\r\n三行目\r四行目", "a\tb", "a  b   c", "  前後の空白  ", "全角　空白", "行\u2028区切り\u2029段落",
    "ＡＢＣ１２３！？（）", "abcABC", "ﾊﾝｶｸｶﾅ", "ﾊﾞﾋﾟﾌﾟ", "㈱日本 ㍻ ㌔ ㊤ ①②③", "…‥〜～−ー―‐", "ﬁﬂ ½ ² ℡ №", "か\u3099き\u3099は\u309a", "ハ\u3099ヒ\u309a", "e\u0301 a\u0308 o\u0302\u0323",
    "が", "が".encode().decode(), unicodedata.normalize("NFD", "ガギグゲゴ パピプペポ é ü"), "\u0301", "a\u0301\u0301\u0301", "各\ufe00 葛\U000e0100",
    "👨\u200d👩\u200d👧\u200d👦", "👩🏽\u200d🚀と🏳\ufe0f\u200d🌈", "🇯🇵🇺🇸", "1️⃣", "\u200b", "a\u200bb", "\ufeffBOM", "a\ufeffb", "\u200e\u200f\u202a\u202c", "\x00", "a\x00b", "\x00\x00あ\x00",
    "\x01\x02\x1f\x7f", "\x1b[31m", "\x85\xa0", "\ufffd", "a\ufffdb", "\uffff", "\U0010ffff", "𠮷野家の𩸽", "𝒜𝓑𝔠", "龘靐齉", "한국어 텍스트", "العربية", "ไทย", "Привет", "çŞğ",
    "▁", "▁▁", "あ▁い", " ▁ ", "▁あ", "\u2047", " \u2047 ",
    "<s>", "</s>", "<unk>", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "<s>今日は</s>", "今日は</s>明日は", "今日は</s> 明日は", "今日は </s>明日は", "<s> <s>", "</s></s>", "<s></s>", "あ<unk>い", "<s", "s>", "<<s>>",
    "</s", "<S>", "[PAD][PAD]あ", "[MASK]は[MASK]です", "<pad>", "<extra_id_0>", "あ<extra_id_0>い", "<NL>", "あ<NL>い", "<NL><NL>", "<NL", "＜NL＞", "<nl>", "ユーザー: こんにちは<NL>システム: ", "システム: はい。<NL>ユーザー: ",
    "<0x41>", "<0xE3><0x81><0x82>", "▁<0x41>", "!!!!!!!!!!", "ああああああああああああああああああ", "www" * 20, "http://example.com/?a=b&c=%E3%81%82", "def f(x):\n    return x + 1\n", "{\"a\": [1, 2]}",
    "I don't know , isn't it ? Yes ! We 're ' here ' .", "it 's he 've a n't  . ..", "<|endoftext|>", "a<|endoftext|> b", "<|padding|>", "     ", "a        b", "\n\n\n", "  \n  x", "あ" * 300,
    "今日は、公園でカレーを食べました。" * 20, "'s 't 're 've 'm 'll 'd", "１２３４５６７８９０" * 3, "3.14159 -1e-10 0x1F",
]


def texts(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice(WHEN) + rng.choice(PLACES) + "で" + rng.choice(THINGS) + rng.choice(DEEDS) for _ in range(rng.randint(1, 3))) for _ in range(count)]


def mixtures(count, seed):
    """Edge cases, sentences and single characters thrown together."""
    rng = random.Random(seed)
    sentences = texts(50, seed)
    chars = "あいうカキ漢字 　\n\tａＡa1１!！。、😃👨\u200d\u3099\u309a\x00𠮷é"
    parts = [lambda: rng.choice(EDGES)[:12], lambda: rng.choice(sentences)[: rng.randint(1, 12)], lambda: "".join(rng.choice(chars) for _ in range(rng.randint(1, 6)))]
    return ["".join(rng.choice(parts)() for _ in range(rng.randint(2, 6))) for _ in range(count)]


def normalization_rules(path):
    """A small part of nmt_nfkc (the whole is 240 KB a model): width forms, kana with marks, compatibility forms, white space, controls."""
    rules = {}
    for code in [*range(0xFF01, 0xFFE7), *range(0x3231, 0x3240), *range(0x2460, 0x2474), *range(0x3371, 0x33A0), 0x2026, 0x2121, 0x2116, 0xBD, 0xB2, 0xFB01, 0xFB02]:
        char = chr(code)
        if unicodedata.normalize("NFKC", char) != char:
            rules[char] = unicodedata.normalize("NFKC", char)
    for base in [chr(c) for c in range(0x3041, 0x30FF)] + [chr(c) for c in range(0xFF66, 0xFF9E)]:
        for mark in "\u3099\u309a\uff9e\uff9f":
            composed = unicodedata.normalize("NFKC", base + mark)
            if len(composed) == 1:
                rules[base + mark] = composed
    for char in "\t\n\r\x0c\u00a0\u3000\u200b\u2028\u2029\ufeff\u200e\u200f\u2581":
        rules[char] = " "
    for code in [*range(1, 9), 0x0B, *range(0x0E, 0x20), 0x7F]:
        rules[chr(code)] = ""
    hexadecimal = lambda text: " ".join(f"{ord(c):X}" for c in text)
    path.write_text("".join(f"{hexadecimal(a)}\t{hexadecimal(b)}\n" for a, b in sorted(rules.items())))


def train_sentencepiece(out, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(3000, 1)), model_writer=model, model_type="unigram", character_coverage=1.0, num_threads=1, minloglevel=2, hard_vocab_limit=False, **options)
    out.mkdir(parents=True, exist_ok=True)
    (out / "spiece.model").write_bytes(model.getvalue())


def random_models(count, seed):
    """
    Models of a few pieces with few different scores, so that many paths tie, over all flags of the normaliser: the file in base64,
    [text, ids] and [ids, text] of SentencePiece itself.
    """
    rng = random.Random(seed)
    models = []
    for k in range(count):
        model = sentencepiece_model_pb2.ModelProto()
        model.pieces.add(piece="<unk>", score=0, type=2)
        alphabet = "abc▁" if k % 2 else "aあ▁"
        for piece in sorted({"".join(rng.choice(alphabet) for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(5, 30))} | {"z"}):
            model.pieces.add(piece=piece, score=rng.choice([-1.1, -2.2, -3.3, -0.7, -5.123, 0.3 if k % 5 == 0 else -1.7]), type=1 if piece == "z" else rng.choice([1, 1, 1, 1, 4, 5]))
        model.trainer_spec.model_type = 1
        model.trainer_spec.treat_whitespace_as_suffix = k % 7 == 0
        model.normalizer_spec.add_dummy_prefix = k & 1 == 1
        model.normalizer_spec.remove_extra_whitespaces = k & 2 == 2
        model.normalizer_spec.escape_whitespaces = k % 9 != 0
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        inputs = ["".join(rng.choice("abc aあ z") for _ in range(rng.randint(1, 30))) for _ in range(25)]
        sequences = [[rng.randrange(len(model.pieces)) for _ in range(rng.randint(1, 8))] for _ in range(10)]
        models.append({
            "model": base64.b64encode(model.SerializeToString()).decode(),
            "texts": [[text, processor.encode(text)] for text in inputs],
            "sequences": [[ids, processor.decode(ids)] for ids in sequences],
        })
    return models


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def id_sequences(size, count, seed):
    rng = random.Random(seed)
    return [[rng.randrange(size) if rng.random() < 0.7 else rng.randrange(min(size, 12)) for _ in range(rng.randint(1, 14))] for _ in range(count)]


def describe(tokenizer, inputs, sequences, raw=None):
    """
    Everything that is compared, as arrays to keep the files small.
    texts: [text, ids, ids with special tokens, decoded, decoded without special tokens, ids of SentencePiece itself]
    sequences: [ids, decoded, decoded without special tokens]
    null stands for "as usual": ids + [eos] (nothing added where there is no post-processing), as decoded, as ids.
    """
    suffix = [] if tokenizer.is_fast else [tokenizer.eos_token_id]
    unless = lambda value, usual: None if value == usual else value
    rows = []
    for text in inputs:
        ids = tokenizer.encode(text, add_special_tokens=False)
        decoded = tokenizer.decode(ids)
        own = ids if raw is None else raw.encode(text)
        rows.append([
            text, ids, unless(tokenizer.encode(text), ids + suffix), decoded, unless(tokenizer.decode(ids, skip_special_tokens=True), decoded), unless(own, ids)])
    decodings = []
    for ids in sequences:
        decoded = tokenizer.decode(ids)
        decodings.append([ids, decoded, unless(tokenizer.decode(ids, skip_special_tokens=True), decoded)])
    names = ("bos", "eos", "pad", "unk")
    return {"vocabSize": len(tokenizer), **{f"{name}Id": getattr(tokenizer, f"{name}_token_id") for name in names}, "texts": rows, "sequences": decodings}


def t5(directory, inputs, seed, config=None):
    if config is not None:
        write_json(directory / "tokenizer_config.json", config)
    tokenizer = transformers.T5Tokenizer.from_pretrained(directory)
    raw = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spiece.model"))
    return describe(tokenizer, inputs, id_sequences(len(tokenizer), 80, seed), raw)


def pack(tokenizer, document, suffix, max_length):
    """The reference recipe's packing: lines with a suffix, joined while the tokenized text fits; the rest is dropped."""
    count = lambda text: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    samples, packed = [], ""
    for line in document.split("\n"):
        longer = f"{packed}\n{line}{suffix}"
        if len(count(longer)) <= max_length:
            packed = longer
            continue
        if count(packed):
            samples.append(count(packed))
        packed = f"{line}{suffix}"
    return samples


def packing(directory):
    tokenizer = transformers.T5Tokenizer.from_pretrained(directory)
    documents = ["\n".join(texts(n, n)) for n in (1, 2, 9, 14)] + ["", "\n\n", "あ" * 200 + "\nい\n" + "う" * 90, "短い。\n\n" * 30]
    return [{"suffix": suffix, "maxLength": length, "documents": documents, "samples": [ids for d in documents for ids in pack(tokenizer, d, suffix, length)]}
            for suffix, length in ((" 😃", 64), ("", 40))]


def byte_level_bpe(out, config, inputs):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>", "<|padding|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts(3000, 1), trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    write_json(out / "tokenizer_config.json", config)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    return describe(loaded, inputs, id_sequences(len(loaded), 80, 5))


def gpt2(out, source, inputs):
    """The same vocabulary in GPT-2's two files, without normalisation and without the added runs of spaces."""
    model = json.loads((source / "tokenizer.json").read_text())["model"]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "vocab.json", model["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    end = "<|endoftext|>"
    write_json(out / "tokenizer_config.json",
               {"bos_token": end, "eos_token": end, "unk_token": end, "tokenizer_class": "GPT2Tokenizer"})
    loaded = transformers.GPT2Tokenizer.from_pretrained(out)
    return describe(loaded, inputs, id_sequences(len(loaded), 40, 6))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--example", type=pathlib.Path, help="folder of the demonstration model, whose tokenizer has the whole of nmt_nfkc")
    options = parser.parse_args()
    if not transformers.__version__.startswith("4."):
        parser.error(f"transformers 4.57.6 is needed, this is {transformers.__version__}")
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    inputs = EDGES + texts(30, 2) + mixtures(120, 3)

    write_json(out / "random-models.json", random_models(20, 5))

    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
    rinna = {**special, "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "extra_ids": 0, "additional_special_tokens": [], "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer"}
    plain = out / "dummy-prefix"
    normalization_rules(out / "rules.tsv")
    # A path relative to the folder, because the trainer writes it into the model.
    with contextlib.chdir(out):
        train_sentencepiece(pathlib.Path("dummy-prefix"), vocab_size=600, normalization_rule_tsv="rules.tsv", pad_id=3, pad_piece="[PAD]", control_symbols=["[CLS]", "[SEP]", "[MASK]"])
    (out / "rules.tsv").unlink()
    write_json(plain / "golden.json", t5(plain, inputs, 4, rinna))

    write_json(out / "packing.json", packing(plain))

    fallback = out / "byte-fallback"
    train_sentencepiece(
        fallback, vocab_size=800, normalization_rule_name="identity", byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, split_by_whitespace=False,
        pad_id=0, pad_piece="[PAD]", unk_id=1, bos_id=2, eos_id=3, user_defined_symbols=["<NL>", "😃😃", "  ", "ユーザー: "])
    write_json(fallback / "golden.json", t5(fallback, inputs, 6, {**special, "extra_ids": 0, "tokenizer_class": "T5Tokenizer"}))

    size = sentencepiece.SentencePieceProcessor(model_file=str(plain / "spiece.model")).get_piece_size()

    # Other settings over the first model: T5Tokenizer's defaults, added tokens of every kind, clean-up.
    added = lambda content, **flags: {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False, **flags}
    variants = {
        "defaults": {"tokenizer_class": "T5Tokenizer"},
        "sentinels": {**rinna, "extra_ids": 3, "additional_special_tokens": None, "clean_up_tokenization_spaces": True},
        "added": {
            **rinna,
            "additional_special_tokens": ["<extra>", "。"],
            "added_tokens_decoder": {
                str(size + i): token
                for i, token in enumerate([added("公園"), added("<NL>", lstrip=True), added("<nl>", rstrip=True), added("www", single_word=True), added("<extra>", special=True)])
            },
        },
        "no-prefix-space": {**rinna, "add_prefix_space": False, "unk_token": {"__type": "AddedToken", **added("<unk>", lstrip=True, rstrip=True, special=True)}},
    }
    some = EDGES + mixtures(40, 7)
    goldens = []
    for name, config in variants.items():
        golden = t5(plain, some, 8, config)
        goldens.append({"name": name, "config": config, "golden": golden})
    write_json(plain / "tokenizer_config.json", rinna)
    write_json(out / "variants.json", goldens)

    endoftext = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "tokenizer_class": "GPTNeoXTokenizer"}
    bpe = out / "byte-level"
    write_json(bpe / "golden.json", byte_level_bpe(bpe, endoftext, inputs))

    write_json(out / "gpt2" / "golden.json", gpt2(out / "gpt2", bpe, EDGES + mixtures(60, 8)))

    if options.example is not None:
        write_json(out / "example.json", t5(options.example, inputs, 9))


if __name__ == "__main__":
    main()
