import { join } from 'node:path';
import { NeoXPrefixError } from '../base/errors';
import { readSmallFile } from '../base/files';
import { type JsonObject, parseJsonObject } from '../formats/json';
import type { TokenizerSettings } from './settings';

/** The two files of a GPT-2 tokenizer that has no tokenizer.json. */
export const VOCAB_FILE = 'vocab.json';
export const MERGES_FILE = 'merges.txt';

/**
 * A tokenizer.json made of vocab.json and merges.txt, as transformers' GPT2Tokenizer reads them: byte-level BPE split
 * by GPT-2's own pattern, with the special tokens of tokenizer_config.json, which are split out of the text first.
 * @param maxBytes of each file
 * @returns also the bytes of both files, one behind the other
 * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_TOKENIZER
 */
export async function readVocabMerges(
  directory: string,
  settings: TokenizerSettings,
  limits: { readonly maxBytes: number; readonly maxNodes: number },
): Promise<{ json: JsonObject; bytes: Buffer }> {
  const path = join(directory, VOCAB_FILE);
  const files = [VOCAB_FILE, MERGES_FILE].map((name) => readSmallFile(join(directory, name), limits.maxBytes));
  const [vocabBytes, mergesBytes] = (await Promise.all(files)) as [Buffer, Buffer];
  const vocab = parseJsonObject(vocabBytes, 'NEOX_BAD_TOKENIZER', 'The file', path, limits.maxNodes);
  // The first line says a version; an empty one ends the file.
  const lines = mergesBytes.toString('utf8').split('\n');
  const merges = lines
    .map((line) => line.replace(/\r$/, ''))
    .filter((line) => line !== '' && !line.startsWith('#version'));
  const bad = merges.findIndex((line) => !/^[^ ]+ [^ ]+$/.test(line));
  if (bad >= 0) {
    throw new NeoXPrefixError(
      'NEOX_BAD_TOKENIZER',
      `${join(directory, MERGES_FILE)}: expected two tokens in each line, found ${JSON.stringify(merges[bad]?.slice(0, 100))}`,
      { path: directory },
    );
  }
  const special = [...settings.specialTokens.values(), ...settings.additionalSpecialTokens];
  const contents = new Set(special.length === 0 ? ['<|endoftext|>'] : special.map(({ content }) => content));
  const json: Record<string, unknown> = {
    added_tokens: [...contents]
      .filter((content) => Object.hasOwn(vocab, content))
      .map((content) => ({ id: vocab[content], content, special: true, normalized: false })),
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: settings.addPrefixSpace ?? false, use_regex: true },
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges },
  };
  return { json, bytes: Buffer.concat([vocabBytes, mergesBytes]) };
}
