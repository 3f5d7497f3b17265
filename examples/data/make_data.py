"""Write the demonstration's training text and prompts beside this file: python make_data.py"""
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'models'))

import corpus  # noqa: E402

DOCUMENTS = 440
PROMPTS = 20


def friendly(sentence):
    """The sentence in a chatty tone: with the particle ね before its full stop."""
    return sentence if sentence.endswith('ね。') else sentence.removesuffix('。') + 'ね。'


def write_documents(name, seed, change=lambda sentence: sentence):
    """One JSON object {"text"} a line, the sentences of a text separated by line feeds."""
    documents = corpus.documents(DOCUMENTS, seed, emoji=False)
    lines = [json.dumps({'text': '\n'.join(map(change, sentences))}, ensure_ascii=False) + '\n' for sentences in documents]
    (HERE / name).write_text(''.join(lines), encoding='utf-8')


def openings(seed):
    """First words of diaries, each once; they leave the style of the sentence open."""
    def any_of(words):
        return '(?:' + '|'.join(map(re.escape, words)) + ')'

    opening = re.compile(f'{any_of(corpus.TIMES)}(?:{any_of(corpus.WITH)}|{any_of(corpus.PLACES)}で)?|{any_of(corpus.BECAUSE)}、')
    found = []
    for sentences in corpus.documents(1000, seed, emoji=False):
        match = opening.match(sentences[0])
        if match and match.group() not in found:
            found.append(match.group())
        if len(found) == PROMPTS:
            return found
    raise SystemExit('too few documents')


write_documents('diary.jsonl', 99)
write_documents('friendly.jsonl', 98, friendly)
(HERE / 'prompts.txt').write_text('\n'.join(openings(97)) + '\n', encoding='utf-8')
