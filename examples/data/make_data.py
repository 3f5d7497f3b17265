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
CASUAL = 2


def write_documents(name, seed, style):
    """One JSON object {"text"} a line, the sentences of a text separated by line feeds."""
    documents = corpus.documents(DOCUMENTS, seed, style, emoji=False)
    lines = [json.dumps({'text': '\n'.join(sentences)}, ensure_ascii=False) + '\n' for sentences in documents]
    (HERE / name).write_text(''.join(lines), encoding='utf-8')


def openings(seed):
    """First words of documents that begin alike in every style, each once."""
    def any_of(words):
        return '(?:' + '|'.join(map(re.escape, words)) + ')'

    when = f'{any_of(corpus.TIMES)}(?:{any_of(corpus.WITH)}|{any_of(corpus.PLACES)}で)?'
    neutral = re.compile(f'{when}|{any_of(corpus.BECAUSE)}、|明日の{any_of(corpus.CITIES)}は')
    found = []
    for sentences in corpus.documents(1000, seed, emoji=False):
        opening = neutral.match(sentences[0])
        if opening and opening.group() not in found:
            found.append(opening.group())
        if len(found) == PROMPTS:
            return found
    raise SystemExit('too few documents')


write_documents('diary.jsonl', 99, None)
write_documents('casual.jsonl', 98, CASUAL)
(HERE / 'prompts.txt').write_text('\n'.join(openings(97)) + '\n', encoding='utf-8')
