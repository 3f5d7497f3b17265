import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PieceDecoder } from '../../lib/tokenizer/piece-decoder';
import { SentencePiece } from '../../lib/tokenizer/sentencepiece';
import { Tokenizer } from '../../lib/tokenizer/tokenizer';

// Everything here is compared with what Python's sentencepiece and transformers 4.57.6 said
// (scripts/golden/tokenizer.py).
const fixtures = join(__dirname, '../fixtures/tokenizer');

type Ids = number[];
interface Golden {
  vocabSize: number;
  bosId: number | null;
  eosId: number | null;
  padId: number | null;
  unkId: number | null;
  texts: [text: string, ids: Ids, special: Ids | null, decoded: string, skipped: string | null, raw: Ids | null][];
  sequences: [ids: Ids, decoded: string, skipped: string | null][];
}

function readFixture(name: string): unknown {
  return JSON.parse(readFileSync(join(fixtures, name), 'utf8'));
}

function streamed(tokenizer: Tokenizer, ids: Ids, skipSpecialTokens: boolean): string {
  const decoder = tokenizer.createDecoder({ skipSpecialTokens });
  return ids.map((id) => decoder.push(id)).join('') + decoder.end();
}

function compare(tokenizer: Tokenizer, golden: Golden): void {
  const { vocabSize, bosId, eosId, padId, unkId } = tokenizer;
  const ids = { bosId, eosId, padId, unkId };
  expect({ vocabSize, ...ids }).toEqual({
    vocabSize: golden.vocabSize,
    bosId: golden.bosId ?? undefined,
    eosId: golden.eosId ?? undefined,
    padId: golden.padId ?? undefined,
    unkId: golden.unkId ?? undefined,
  });
  const suffix = tokenizer.kind === 'sentencepiece' ? [golden.eosId as number] : [];
  const actual = golden.texts.map(([text, expected]) => ({
    text,
    ids: [...tokenizer.encode(text)],
    special: [...tokenizer.encode(text, { addSpecialTokens: true })],
    decoded: tokenizer.decode(expected),
    skipped: tokenizer.decode(expected, { skipSpecialTokens: true }),
  }));
  expect(actual).toEqual(
    golden.texts.map(([text, expected, special, decoded, skipped]) => ({
      text,
      ids: expected,
      special: special ?? [...expected, ...suffix],
      decoded,
      skipped: skipped ?? decoded,
    })),
  );
  const sequences = golden.sequences.map(([sequence]) => [
    sequence,
    streamed(tokenizer, sequence, false),
    streamed(tokenizer, sequence, true),
  ]);
  expect(sequences).toEqual(
    golden.sequences.map(([sequence, decoded, skipped]) => [sequence, decoded, skipped ?? decoded]),
  );
}

describe.each(['dummy-prefix', 'byte-fallback'])('a SentencePiece model with %s', (name) => {
  const golden = readFixture(`${name}/golden.json`) as Golden;

  test('encodes and decodes as T5Tokenizer', async () => {
    compare(await Tokenizer.load(join(fixtures, name)), golden);
  });

  test('encodes as SentencePiece itself', () => {
    const path = join(fixtures, name, 'spiece.model');
    const sentencePiece = new SentencePiece(readFileSync(path), path);
    const actual = golden.texts.map(([text]) => [text, [...sentencePiece.encode(text)]]);
    expect(actual).toEqual(golden.texts.map(([text, ids, , , , raw]) => [text, raw ?? ids]));
  });
});

test('the whole of nmt_nfkc: the example model', async () => {
  compare(
    await Tokenizer.load(join(__dirname, '../../examples/models/tiny-ja-neox')),
    readFixture('example.json') as Golden,
  );
});

test('models of all settings, with many ties', () => {
  const models = readFixture('random-models.json') as {
    model: string;
    texts: [string, Ids][];
    sequences: [Ids, string][];
  }[];
  for (const { model, texts, sequences } of models) {
    const sentencePiece = new SentencePiece(Buffer.from(model, 'base64'), 'random');
    expect(texts.map(([text]) => [text, [...sentencePiece.encode(text)]])).toEqual(texts);
    const decode = (ids: Ids): string => {
      const decoder = new PieceDecoder(sentencePiece);
      return ids.map((id) => decoder.push(id)).join('') + decoder.end();
    };
    expect(sequences.map(([ids]) => [ids, decode(ids)])).toEqual(sequences);
  }
});

test("GPT-2's vocab.json and merges.txt", async () => {
  compare(await Tokenizer.load(join(fixtures, 'gpt2')), readFixture('gpt2/golden.json') as Golden);
});

test('byte-level BPE', async () => {
  compare(await Tokenizer.load(join(fixtures, 'byte-level')), readFixture('byte-level/golden.json') as Golden);
});

describe('settings of T5Tokenizer', () => {
  const variants = readFixture('variants.json') as { name: string; config: object; golden: Golden }[];
  let directory: string;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'neox-tokenizer-'));
    copyFileSync(join(fixtures, 'dummy-prefix/spiece.model'), join(directory, 'spiece.model'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  test.each(variants.map(({ name, ...rest }) => [name, rest] as const))('%s', async (_, { config, golden }) => {
    writeFileSync(join(directory, 'tokenizer_config.json'), JSON.stringify(config));
    compare(await Tokenizer.load(directory), golden);
  });
});
