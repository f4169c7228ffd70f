#!/usr/bin/env python3
"""Compares Minerva's tokenizers with what others make of the same vocabularies.

    compare_tokenizers.py FOLDER [--program PROGRAM] [--texts N] [--seed N] [--model GGUF ...] [--unigram MODEL ...]
        [--llama-tokenize PROGRAM]

FOLDER holds vocabularies as GGUF files. For each one:

* `X.gguf.inp` and `X.gguf.out`, where they are, are texts and the token ids that are wanted
  (llama.cpp keeps such pairs beside its vocabularies).
* Random texts, in all scripts, with much white space, many digits and line breaks, code, long runs,
  and broken UTF-8, are encoded by the PyPI packages `tokenizers` (byte-level BPE) or
  `sentencepiece` (BPE and unigram), which are given the vocabulary of the same file.

Unigram vocabularies are given as files of `sentencepiece` (`--unigram`), and turned into GGUF as
llama.cpp's converter does; half of the texts for them are made of their own tokens. Others are
trained, by `sentencepiece` and on random texts: with each of its rules of normalization, with and
without byte tokens, prefixes and the removal of spaces.

With llama.cpp's llama-tokenize, texts full of special tokens and white space are compared too, as
prompts have them: of its vocabularies, Phi 3's has tokens that swallow the white space behind them,
nomic-bert-moe's one that swallows what is before it.

Every text is also decoded again, and must come back as it was; from a unigram vocabulary, which
normalizes, as `sentencepiece` decodes the same tokens.

PROGRAM is `tokenize`, the example of the crate minerva-engine: `cargo build --release -p
minerva-engine --example tokenize`. Needed from PyPI: tokenizers, sentencepiece, protobuf, gguf.
Nothing is installed or fetched. The exit status is 1 if there is any difference.

What is compared, exactly:

* Control tokens are not parsed in the texts, and BOS and EOS are not added.
* Neither package takes broken UTF-8: `sentencepiece` would put U+FFFD for each broken byte, which
  cannot be undone. Minerva keeps the byte and writes it as a byte token. So `sentencepiece` gets a
  character that is in no token, and the byte tokens it becomes are replaced by the byte's own. For
  `tokenizers` the text is cut into words with U+FFFD in the place of each broken byte, and the
  words' own bytes are merged.
* A byte-level vocabulary may lack a byte, or have it as a user-defined token, which stands for
  another text. Such a byte has no tokens that would bring it back; both leave it out, but
  `tokenizers` merges its neighbours as though it had not been there, and Minerva (as llama.cpp does)
  does not. Texts with such bytes are left out.
* `sentencepiece` takes user-defined tokens before it merges, as Minerva does, but Minerva (as
  llama.cpp does) normalizes and scores what is before and behind one by itself: it may put a space
  before it. No such token is put in the texts of SentencePiece vocabularies.
* Both put U+FFFD for a broken byte of a unigram vocabulary's text.
* Where spaces are removed at the ends of a text, `sentencepiece` also drops U+2581 at the start of
  what it decodes. Such texts are not compared as decoded.
* The regular expressions are those that the models' own tokenizers use, not llama.cpp's ASCII
  approximations of them, and are written here independently of Minerva's table.
"""

import argparse
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

from gguf import GGUFReader, GGUFWriter

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
DIGITS = r"\p{N}"
O200K_WORD = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SUFFIX"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SUFFIX"
)
O200K_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = O200K_WORD.replace("SUFFIX", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + O200K_REST
TEKKEN = O200K_WORD.replace("SUFFIX", "") + r"|\p{N}" + O200K_REST
DEEPSEEK3 = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]
DEEPSEEK_CODER = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"]
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-"
    "\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90"
    "-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-"
    "\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d"
    "\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
DEEPSEEK_LLM = [
    "[\r\n]",
    rf"\s?[{DEEPSEEK_LETTERS}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-\ud7ff]+",
    r"\p{N}+",
]
FALCON = [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]
DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]
CASED = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
KIMI_K2 = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{CASED}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{CASED}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
JAIS2 = CL100K.replace(r"\s+(?!\S)|\s+", "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)))
JAIS2 += r"|\s{1,2}(?!\S)|\s{1}"
EXAONE_MOE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
BAILINGMOE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+"
)
# Thai, Lao, Khmer, Burmese, Javanese, Han, kana, hangul by block.
AFMOE_SCRIPTS = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-"
    "\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

# Name in the file: patterns, each cutting what the one before it left.
PATTERNS = {
    "default": DEFAULT,
    "gpt-2": [GPT2],
    "mpt": [GPT2],
    "llama-bpe": [CL100K],
    "smollm": [DIGITS, GPT2],
    "starcoder": [DIGITS, GPT2],
    "refact": [DIGITS, GPT2],
    "command-r": [DIGITS, GPT2],
    "qwen2": [QWEN2],
    "qwen35": [QWEN35],
    "deepseek-coder": DEEPSEEK_CODER,
    "deepseek-llm": DEEPSEEK_LLM,
    "falcon": FALCON,
    "gpt-4o": [GPT4O],
    "tekken": [TEKKEN],
    "deepseek-v3": DEEPSEEK3,
    "dbrx": [CL100K],
    "bloom": [BLOOM],
    "viking": [BLOOM, DIGITS],
    "jais-2": [JAIS2],
    "minicpm5": [r"\p{N}{1,3}", CL100K.replace("{1,3}", "+")],
    "youtu": [YOUTU_SCRIPTS, GPT4O.replace(r"\p{N}{1,3}", r"\p{N}")],
    "kimi-k2": [KIMI_K2],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "bailingmoe": [BAILINGMOE],
    "seed-coder": [QWEN2.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")],
    "ufakzeka": [QWEN2.split("|", 7)[7]],
    "exaone-moe": [EXAONE_MOE],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", AFMOE_SCRIPTS, DEEPSEEK3[2]],
    "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "spark2_5": [
        *DEEPSEEK3[:2], DEEPSEEK3[2].replace(r"+[\r\n]*|\s*[\r\n]+|", r"+|[\r\n]|"), r"\p{N}",
    ],
    "chameleon": [
        "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", DIGITS,
        r"[\p{P}!-/:-@\[-`{-~]", GPT2,
    ],
}
IGNORE_MERGES = {"llama-bpe", "tekken", "youtu", "minicpm5"}
# superbpe is not here: its words are whole sentences, on which `tokenizers` spends many minutes.
# Pre-tokenizers whose patterns are also tried with the vocabulary of another family, because no file
# with a vocabulary of their own is small enough to be kept: base name, then the names tried.
BORROWED = {
    "llama-bpe": [
        "gpt-4o", "tekken", "deepseek-v3", "dbrx", "bloom", "viking", "default", "jais-2", "minicpm5", "youtu",
        "kimi-k2", "tiny_aya", "bailingmoe", "seed-coder", "ufakzeka", "exaone-moe", "afmoe", "laguna",
        "spark2_5", "chameleon",
    ]
}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


class Vocabulary:
    def __init__(self, path):
        self.path = path
        fields = GGUFReader(path).fields
        read = lambda key: fields[key].contents() if key in fields else None
        strings = lambda key: [bytes(fields[key].parts[i]) for i in fields[key].data]
        self.model = read("tokenizer.ggml.model")
        self.pre = read("tokenizer.ggml.pre") or "default"
        self.tokens = strings("tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in fields else []
        self.types = read("tokenizer.ggml.token_type") or [NORMAL] * len(self.tokens)
        self.scores = read("tokenizer.ggml.scores")
        self.merges = strings("tokenizer.ggml.merges") if "tokenizer.ggml.merges" in fields else None
        self.add_space_prefix = read("tokenizer.ggml.add_space_prefix")
        self.remove_extra_whitespaces = read("tokenizer.ggml.remove_extra_whitespaces")
        self.charsmap = bytes(i & 255 for i in read("tokenizer.ggml.precompiled_charsmap") or [])


def proxy(text, mark="\ufffd"):
    """The text with `mark` for each broken byte, and these bytes by the place of their mark."""
    broken = []
    out = []
    while text:
        try:
            out.append(text.decode())
            break
        except UnicodeDecodeError as error:
            out.append(text[: error.start].decode())
            for byte in text[error.start : error.end]:
                broken.append((sum(map(len, out)), byte))
                out.append(mark)
            text = text[error.end :]
    return "".join(out), dict(broken)


BYTE_CHARS = {b: chr(b) for b in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]}
for _byte in range(256):
    BYTE_CHARS.setdefault(_byte, chr(0x100 + len(BYTE_CHARS) - 188))


class ByteLevel:
    """The vocabulary in `tokenizers`."""

    name = "tokenizers"

    def __init__(self, vocabulary, pre):
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        ids = {}
        for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types)):
            ids.setdefault(token.decode(errors="replace"), i)
        merges = []
        for merge in vocabulary.merges:
            at = merge.index(b" ", 1)
            pair = (merge[:at].decode(), merge[at + 1 :].decode())
            # `tokenizers` refuses pairs whose parts or result are no tokens.
            if pair[0] in ids and pair[1] in ids and "".join(pair) in ids:
                merges.append(pair)
        self.dropped = len(vocabulary.merges) - len(merges)
        self.bpe = Tokenizer(models.BPE(ids, merges, ignore_merges=pre in IGNORE_MERGES))
        self.cutter = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[pre]]
        )
        self.user_defined = sorted(
            (t.decode() for t, k in zip(vocabulary.tokens, vocabulary.types) if k == USER_DEFINED and t),
            key=lambda text: -len(text),
        )
        self.ids = ids
        self.cache = {}

    def word(self, word):
        if word not in self.cache:
            self.cache[word] = self.bpe.encode(word, add_special_tokens=False).ids
        return self.cache[word]

    def fragments(self, text):
        """Cuts at user-defined tokens, the longest of those that begin leftmost first."""
        if not self.user_defined:
            return [(text, 0, False)]
        if not hasattr(self, "regex"):
            self.regex = re.compile("|".join(map(re.escape, self.user_defined)))
        out, pos = [], 0
        for match in self.regex.finditer(text):
            out.append((text[pos : match.start()], pos, False))
            out.append((match.group(), match.start(), True))
            pos = match.end()
        return out + [(text[pos:], pos, False)]

    def encode(self, text):
        text, broken = proxy(text)
        out = []
        for fragment, start, is_token in self.fragments(text):
            if is_token:
                out.append(self.ids[fragment])
                continue
            if not fragment:
                continue
            for word, (at, _) in self.cutter.pre_tokenize_str(fragment):
                units = []
                for i, char in enumerate(word, start + at):
                    units += [broken[i]] if i in broken else list(char.encode())
                out += self.word("".join(BYTE_CHARS[b] for b in units))
        return out


class SentencePiece:
    """The vocabulary in `sentencepiece`."""

    name = "sentencepiece"
    dropped = 0

    def __init__(self, vocabulary, _pre):
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as pb2

        self.is_unigram = vocabulary.model == "t5"
        proto = pb2.ModelProto()
        proto.trainer_spec.model_type = pb2.TrainerSpec.UNIGRAM if self.is_unigram else pb2.TrainerSpec.BPE
        proto.trainer_spec.byte_fallback = BYTE in vocabulary.types
        proto.trainer_spec.vocab_size = len(vocabulary.tokens)
        proto.normalizer_spec.name = "identity"
        proto.normalizer_spec.add_dummy_prefix = True
        proto.normalizer_spec.remove_extra_whitespaces = False
        if self.is_unigram:
            proto.normalizer_spec.precompiled_charsmap = vocabulary.charsmap
            proto.normalizer_spec.add_dummy_prefix = bool(vocabulary.add_space_prefix)
            proto.normalizer_spec.remove_extra_whitespaces = bool(vocabulary.remove_extra_whitespaces)
        self.adds_prefix = proto.normalizer_spec.add_dummy_prefix
        self.strips = proto.normalizer_spec.remove_extra_whitespaces
        proto.normalizer_spec.escape_whitespaces = True
        kinds = pb2.ModelProto.SentencePiece
        has_unknown = False
        for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types):
            piece = proto.pieces.add()
            piece.piece = token.decode()
            piece.score = score
            piece.type = {
                NORMAL: kinds.NORMAL,
                UNKNOWN: kinds.UNKNOWN,
                CONTROL: kinds.CONTROL,
                USER_DEFINED: kinds.USER_DEFINED,
                UNUSED: kinds.UNUSED,
                BYTE: kinds.BYTE,
            }[int(kind)]
            if kind == UNKNOWN:
                # There may be only one; to encoding, a second is like a control token.
                if has_unknown:
                    piece.type = kinds.CONTROL
                else:
                    proto.trainer_spec.unk_piece = piece.piece
                    has_unknown = True
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.byte_ids = {}
        for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types)):
            if kind == BYTE:
                self.byte_ids[int(token[3:5], 16)] = i
        # A character that nothing merges with, as it is in no token.
        tokens = b"".join(vocabulary.tokens)
        self.mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c.encode() not in tokens)

    def encode(self, text):
        if self.is_unigram:
            return self.processor.encode(text)
        assert self.mark.encode() not in text
        text, broken = proxy(text, self.mark)
        ids = self.processor.encode(text)
        mark_ids = [self.byte_ids[byte] for byte in self.mark.encode()]
        out, at = [], 0
        for _, byte in sorted(broken.items()):
            while ids[at : at + len(mark_ids)] != mark_ids:
                out.append(ids[at])
                at += 1
            out.append(self.byte_ids[byte])
            at += len(mark_ids)
        return out + ids[at:]

    def decode(self, ids):
        """The text; None where it has unknown tokens, which the two show differently."""
        pieces = self.processor.id_to_piece(ids)
        prefix = "▁▁" if self.adds_prefix else "▁"
        if self.processor.unk_id() in ids or (self.strips and "".join(pieces).startswith(prefix)):
            return None
        return self.processor.decode(ids).encode()


# What the trained unigram vocabularies are like.
TRAINED = {
    "nmt_nfkc": {},
    "nmt_nfkc_cf": {"byte_fallback": True},
    "nfkc": {"byte_fallback": True, "remove_extra_whitespaces": False},
    "nfkc_cf": {"add_dummy_prefix": False},
    "identity": {"remove_extra_whitespaces": False},
}


def trained(folder, rng):
    """Trains unigram vocabularies and writes them as llama.cpp's converter does."""
    import sentencepiece

    # Words of syllables, so that long pieces are found, and some of every script.
    syllables = ["".join(rng.choices("aeioubcdlmnrst", k=2)) for _ in range(40)] + ["é", "漢", "字", "ﬁ", "½", "и"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(600)]
    corpus = [" ".join(rng.choices(words, k=12)) for _ in range(1500)] + list(WORDS) * 5
    corpus += ["".join(rng.choices(scripts, k=8)) for scripts in characters()]
    for rules, flags in TRAINED.items():
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=out, model_type="unigram", vocab_size=3000,
            hard_vocab_limit=False, character_coverage=0.99, normalization_rule_name=rules, num_threads=1, minloglevel=2, **flags,
        )
        path = Path(folder) / f"trained-{rules}.gguf"
        write_unigram(out.getvalue(), path)
        yield path


def write_unigram(model, path):
    """Writes a unigram vocabulary of `sentencepiece` as llama.cpp's converter does."""
    from sentencepiece import sentencepiece_model_pb2 as pb2

    proto = pb2.ModelProto()
    proto.ParseFromString(model)
    assert proto.trainer_spec.model_type == pb2.TrainerSpec.UNIGRAM, path
    writer = GGUFWriter(path, "t5")
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.piece.encode() for piece in proto.pieces])
    writer.add_token_scores([piece.score for piece in proto.pieces])
    # The numbers of the types are the same in both formats.
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
    if proto.normalizer_spec.precompiled_charsmap:
        writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    writer.add_unk_token_id(proto.trainer_spec.unk_id)
    writer.add_bos_token_id(proto.trainer_spec.bos_id)
    writer.add_eos_token_id(proto.trainer_spec.eos_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def characters():
    """Characters by script, as far as the Unicode version of this Python knows them."""
    scripts = {}
    for code in range(1, 0x110000):
        char = chr(code)
        if unicodedata.category(char) in ("Cn", "Cs", "Co"):
            continue
        name = unicodedata.name(char, "CONTROL").split(" ")[0]
        scripts.setdefault(name, []).append(char)
    return [chars for name, chars in sorted(scripts.items()) if len(chars) >= 10]


WORDS = (
    "the of and to in is that it was for on with he be at by I'm you're they'll WE'VE don't Don'T it's "
    "HelloWorld camelCaseWord HTMLParser __init__ foo_bar() x+=1; // comment https://example.com/a?b=c "
    "1234567 3.14159 2024-01-31 100,000 ½ Ⅷ ٣٤٥ 漢字かな交じり文 안녕하세요 Привет мир γειά σου שלום مرحبا हिन्दी ภาษาไทย "
    "e\u0301a\u0308 👩\u200d👩\u200d👧 🏳️\u200d🌈 ﬁ ſ K 'ſ <s> </s> <0x0A> <unk> ▁ ▁▁x <|endoftext|> \ufffd \u0085 \u00a0 \u2028 \u3000 \ufeff"
).split(" ")


def random_texts(count, rng):
    scripts = characters()
    spaces = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "        "]
    for i in range(count):
        kind = i % 8
        parts = []
        for _ in range(rng.randint(1, 40)):
            if kind == 0:
                parts.append(rng.choice(WORDS) + rng.choice(spaces))
            elif kind == 1:
                parts.append("".join(rng.choices(rng.choice(scripts), k=rng.randint(1, 8))) + rng.choice(["", *spaces]))
            elif kind == 2:
                parts.append(rng.choice(rng.choice(scripts)))
            elif kind == 3:
                parts.append(rng.choice(spaces) * rng.randint(1, 5) + rng.choice(["", "x", "1", ".", "É", "漢"]))
            elif kind == 4:
                parts.append(rng.choice("0123456789,.-½٣ aZ'") * rng.randint(1, 5))
            elif kind == 5:
                parts.append("".join(chr(rng.randint(1, 127)) for _ in range(rng.randint(1, 10))))
            elif kind == 6:
                parts.append(rng.choice(rng.choice([WORDS, spaces, ["a", "A", "é", "ab", "'s", "!"]])) * rng.randint(1, 60))
            else:
                parts.append(rng.choice(WORDS) + rng.choice(["'s", "'T", "'ll", "!", "/\n", " ", "1", "É", "e\u0301", "_"]))
        text = "".join(parts).encode()
        if i % 5 == 4:
            # Broken UTF-8: bytes replaced, dropped, put in.
            text = bytearray(text)
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(text)) if text else 0
                text[at : at + rng.randint(0, 2)] = bytes(rng.choices(range(1, 256), k=rng.randint(0, 3)))
            text = bytes(text).replace(b"\0", b"")
        yield text


def texts_of_tokens(path, count, rng):
    """Texts of a vocabulary's own tokens, so that there are many ways to cut them."""
    vocabulary = Vocabulary(path)
    tokens = [t.replace("▁".encode(), b" ") for t, kind in zip(vocabulary.tokens, vocabulary.types) if kind == NORMAL]
    for _ in range(count):
        yield b"".join(rng.choices(tokens, k=rng.randint(1, 60)))


def run(program, path, texts, flags=()):
    """The ids and the decoded bytes of each text."""
    assert all(b"\0" not in text for text in texts)
    done = subprocess.run(
        [program, path, "--decode", *flags],
        input=b"".join(text + b"\0" for text in texts),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{program} {path}: exit status {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(texts)
    return [(line["ids"], bytes.fromhex(line["text"])) for line in lines]


def pairs(path):
    texts = Path(f"{path}.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    wanted = [[int(i) for i in line.split()] for line in Path(f"{path}.out").read_text().splitlines()]
    if len(texts) == len(wanted) + 1 and not texts[-1]:
        texts.pop()
    assert len(texts) == len(wanted), path
    return texts, wanted


def with_pre(vocabulary, pre, folder):
    """A copy of a byte-level vocabulary that names another pre-tokenizer. (Reading it again would take ten seconds.)"""
    out = Path(folder) / f"{Path(vocabulary.path).stem}-as-{pre}.gguf"
    writer = GGUFWriter(out, "llama")
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(out)


def report(what, texts, got, wanted):
    differences = [(t, g, w) for t, g, w in zip(texts, got, wanted) if g != w]
    for text, found, expected in differences[:3]:
        print(f"    {text!r}\n      found {found}\n      want  {expected}")
    print(f"  {what}: {len(texts)} compared, {len(differences)} differ")
    return len(differences)


def compare_random(program, path, vocabulary, pre, texts):
    is_sentence_piece = vocabulary.model in ("llama", "t5")
    other = (SentencePiece if is_sentence_piece else ByteLevel)(vocabulary, pre)
    if other.dropped:
        print(f"  {other.dropped} merges of texts that are no tokens are left out for {other.name}")
    if is_sentence_piece:
        user_defined = [t for t, k in zip(vocabulary.tokens, vocabulary.types) if k == USER_DEFINED]
        texts = [text for text in texts if not any(token in text for token in user_defined)]
    elif lacks := missing_bytes(vocabulary):
        n_all = len(texts)
        texts = [text for text in texts if not lacks & set(text)]
        print(f"  lacks the bytes {bytes(sorted(lacks)).hex(' ')}, in {n_all - len(texts)} texts")
    got = run(program, path, texts)
    wanted = [other.encode(text) for text in texts]
    ids = [ids for ids, _ in got]
    is_broken = [bool(proxy(text)[1]) for text in texts]
    bad = 0
    for flag, what in ((False, "whole"), (True, "broken UTF-8")):
        pick = lambda items: [item for item, broken in zip(items, is_broken) if broken == flag]
        bad += report(f"{other.name}, {pre}, {what}", pick(texts), pick(ids), pick(wanted))
    if vocabulary.model == "t5":
        back = [other.decode(ids) for ids in wanted]
        known = [i for i, text in enumerate(back) if text is not None]
        pick = lambda items: [items[i] for i in known]
        return bad + report("decoded", pick(texts), pick([text for _, text in got]), pick(back)), len(texts)
    # SentencePiece writes a space and U+2581 the same way.
    back = [t.replace("▁".encode(), b" ") if vocabulary.model == "llama" else t for t in texts]
    return bad + report("decoded", texts, [text for _, text in got], back), len(texts)


def special_texts(vocabulary, count, rng):
    """Texts in which special tokens stand between words and white space."""
    specials = [t.decode() for t, kind in zip(vocabulary.tokens, vocabulary.types) if kind in (CONTROL, USER_DEFINED)]
    rest = ["Hello", "wörld", "a", "漢字", "1", ".", "x<|y", "</", "fi ", " ", "  ", "\n", "\n\n", "\t", " \n "]
    for _ in range(count):
        yield "".join(rng.choice(specials if rng.random() < 0.4 else rest) for _ in range(400)).encode()


def compare_special(program, path, vocabulary, llama_tokenize):
    texts = list(special_texts(vocabulary, 4, random.Random(1)))
    wanted = []
    for text in texts:
        with tempfile.NamedTemporaryFile() as file:
            file.write(text)
            file.flush()
            command = [llama_tokenize, "-m", path, "-f", file.name, "--ids", "--no-bos", "--log-disable"]
            wanted.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout.splitlines()[-1]))
    got = [ids for ids, _ in run(program, path, texts, ["--parse-special"])]
    return report("llama.cpp, with special tokens", texts, got, wanted)


def missing_bytes(vocabulary):
    """The bytes that a byte-level vocabulary cannot express."""
    taken = (NORMAL, UNUSED)
    tokens = {t for t, kind in zip(vocabulary.tokens, vocabulary.types) if kind in taken}
    return {byte for byte in range(256) if BYTE_CHARS[byte].encode() not in tokens}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--program", default="target/release/examples/tokenize")
    parser.add_argument("--model", action="append", default=[], help="a model file to compare too")
    parser.add_argument("--unigram", action="append", default=[], type=Path, help="a vocabulary of sentencepiece")
    parser.add_argument("--llama-tokenize", metavar="PROGRAM")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    paths = sorted(args.folder.glob("*.gguf")) + [Path(model) for model in args.model]
    if not paths:
        sys.exit(f"{args.folder}: no vocabularies")
    texts = list(random_texts(args.texts, random.Random(args.seed)))
    counts = Counts()
    for path in paths:
        compare_file(args.program, path, texts, counts, args.llama_tokenize)
    with tempfile.TemporaryDirectory() as folder:
        for path in trained(folder, random.Random(args.seed)):
            compare_file(args.program, path, texts, counts)
        for model in args.unigram:
            path = Path(folder) / f"{model.stem}.gguf"
            write_unigram(model.read_bytes(), path)
            own = list(texts_of_tokens(path, args.texts, random.Random(args.seed)))
            # All of them at once too: sums of scores must not lose a piece's in a long text.
            compare_file(args.program, path, [*texts, *own, b" ".join(own)], counts)
    print(f"{counts.pairs} pairs and {counts.random} random texts compared, {counts.bad} differences")
    sys.exit(1 if counts.bad else 0)


class Counts:
    pairs = random = bad = 0


def compare_file(program, path, texts, counts, llama_tokenize=None):
    vocabulary = Vocabulary(path)
    print(f"{path.name}: {vocabulary.model}, {vocabulary.pre}, {len(vocabulary.tokens)} tokens", flush=True)
    if vocabulary.model not in ("llama", "gpt2", "gemma4", "t5"):
        print("  not of a supported kind")
        return
    if Path(f"{path}.inp").exists():
        inputs, wanted = pairs(path)
        got = run(program, str(path), inputs)
        counts.pairs += len(inputs)
        counts.bad += report("pairs", inputs, [ids for ids, _ in got], wanted)
    if llama_tokenize and {CONTROL, USER_DEFINED} & set(vocabulary.types):
        counts.bad += compare_special(program, str(path), vocabulary, llama_tokenize)
    if vocabulary.model in ("llama", "t5") or (vocabulary.model == "gpt2" and vocabulary.pre in PATTERNS):
        bad, n = compare_random(program, str(path), vocabulary, vocabulary.pre, texts)
        counts.bad, counts.random = counts.bad + bad, counts.random + n
    else:
        print("  no counterpart for random texts")
    for pre in BORROWED.get(vocabulary.pre, ()) if vocabulary.model == "gpt2" else ():
        with tempfile.TemporaryDirectory() as folder:
            copy = with_pre(vocabulary, pre, folder)
            bad, n = compare_random(program, copy, vocabulary, pre, texts)
            counts.bad, counts.random = counts.bad + bad, counts.random + n


if __name__ == "__main__":
    main()
