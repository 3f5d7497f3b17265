import { basename, dirname, join } from 'node:path';
import { inspect } from 'node:util';
import { badArgument, checkBoolean, checkOptions, checkPath } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { kindOf, listFolder, readSmallFile, sha256 } from '../base/files';
import { parseJsonObject } from '../formats/json';
import type { TextContext, TextStream, TokenizerBackend } from './backend';
import { ByteLevelBackend } from './byte-level-bpe';
import { SentencePiece } from './sentencepiece';
import type { AddedToken, SpecialTokenName, TokenizerSettings } from './settings';
import { plainToken, readSettings, SPECIAL_TOKEN_NAMES } from './settings';
import { CleanUpStream } from './streams';
import { T5Backend } from './t5';
import { MERGES_FILE, readVocabMerges, VOCAB_FILE } from './vocab-merges';

/** How to turn text into ids. */
export interface EncodeOptions {
  /**
   * Adds what the tokenizer's own rules add: T5Tokenizer `</s>` at the end unless it is there, byte-level BPE usually
   * nothing. Defaults to `false`.
   */
  addSpecialTokens?: boolean;
}

/** How to turn ids into text. */
export interface DecodeOptions {
  /** Leaves out special tokens (bos, eos, unk, pad, ...). Defaults to `false`. */
  skipSpecialTokens?: boolean;
}

/** How to turn ids into text as they come. */
export interface DecoderOptions extends DecodeOptions {
  /**
   * Ids that stand in front: the decoder gives what the others add to their text. Their first token is then not the
   * start of a text, where a space counts for nothing. Defaults to none.
   */
  after?: ArrayLike<number>;
}

/** Decodes one sequence id by id: what all calls of `push` and then `end` return, joined, is `decode` of all ids. */
export interface TokenDecoder {
  /**
   * The text that this id makes certain; '' while a character or a decision is open. Takes constant time on average.
   */
  push(id: number): string;
  /** The rest. */
  end(): string;
}

const T5_CLASSES = ['T5Tokenizer', 'T5TokenizerFast'];
/** Several times the largest vocabularies (256,000 pieces, or tokens and merges). */
const MAX_FILE_BYTES = 128 * 2 ** 20;
const MAX_JSON_NODES = 4_000_000;

/**
 * The tokenizer of a model: text to token ids and back, equal to Python's.
 *
 * Three kinds of file are read. `spiece.model` (rinna; unigram SentencePiece) is used under the rules of transformers'
 * slow T5Tokenizer (4.57); `tokenizer.json` (Pythia, OpenCALM) must be byte-level BPE, and where there is none
 * `vocab.json` with `merges.txt` is read as GPT-2's tokenizer. A folder that has several is
 * decided by `tokenizer_class` of its tokenizer_config.json: `spiece.model` for T5Tokenizer, T5TokenizerFast or none,
 * `tokenizer.json` for any other.
 */
export class Tokenizer {
  /** What it is: unigram SentencePiece or byte-level BPE. */
  readonly kind: 'sentencepiece' | 'bpe';
  /** One above the largest id. A model's own vocabulary is often padded to more. */
  readonly vocabSize: number;
  /** Ids from the tokenizer's files, else from the model's config.json; undefined where neither names one. */
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly unkId: number | undefined;
  /** SHA-256 of the vocabulary file (spiece.model, tokenizer.json, or vocab.json and merges.txt), in hexadecimal. */
  readonly hash: string;
  /** The vocabulary file. */
  readonly path: string;

  private constructor(
    private readonly backend: TokenizerBackend,
    private readonly settings: TokenizerSettings,
    path: string,
    hash: string,
  ) {
    this.kind = backend.kind;
    this.vocabSize = backend.vocabSize;
    this.path = path;
    this.hash = hash;
    const idOf = (name: SpecialTokenName): number | undefined => {
      const token = settings.specialTokens.get(name);
      return token === undefined ? undefined : backend.tokenToId(token.content);
    };
    this.bosId = idOf('bos_token') ?? settings.modelIds.bosId;
    this.eosId = idOf('eos_token') ?? settings.modelIds.eosId;
    this.padId = idOf('pad_token') ?? settings.modelIds.padId;
    this.unkId = idOf('unk_token');
  }

  /**
   * Loads the tokenizer of a model folder, or of a `.model` or `tokenizer.json` file (then with the settings files
   * beside it).
   *
   * @throws NEOX_FILE_NOT_FOUND, NEOX_BAD_TOKENIZER for a damaged file, NEOX_UNSUPPORTED for another kind of tokenizer;
   *   all name the path.
   */
  static async load(dirOrFile: string): Promise<Tokenizer> {
    checkPath('dirOrFile', dirOrFile);
    const kind = await kindOf(dirOrFile);
    if (kind === undefined)
      throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `${dirOrFile} does not exist`, { path: dirOrFile });
    const isDirectory = kind === 'folder';
    const directory = isDirectory ? dirOrFile : dirname(dirOrFile);
    const settings = await readSettings(directory);
    const path = isDirectory ? await findVocabulary(directory, settings) : dirOrFile;

    if (basename(path) === VOCAB_FILE) {
      const limits = { maxBytes: MAX_FILE_BYTES, maxNodes: MAX_JSON_NODES };
      const { json, bytes } = await readVocabMerges(directory, settings, limits);
      return new Tokenizer(new ByteLevelBackend(json, settings, path), settings, path, sha256(bytes));
    }
    const bytes = await readSmallFile(path, MAX_FILE_BYTES);
    const hash = sha256(bytes);
    if (path.endsWith('.json')) {
      const json = parseJsonObject(bytes, 'NEOX_BAD_TOKENIZER', 'The file', path, MAX_JSON_NODES);
      return new Tokenizer(new ByteLevelBackend(json, settings, path), settings, path, hash);
    }

    if (!settings.legacy) {
      throw new NeoXPrefixError(
        'NEOX_UNSUPPORTED',
        `${join(directory, 'tokenizer_config.json')} asks for T5Tokenizer with "legacy": false, which is not supported`,
        {
          path: directory,
        },
      );
    }
    const sentencePiece = new SentencePiece(bytes, path);
    const t5Settings = withT5Defaults(settings, sentencePiece);
    return new Tokenizer(new T5Backend(sentencePiece, t5Settings), t5Settings, path, hash);
  }

  /** The ids of a text. A lone surrogate counts as U+FFFD (Python refuses such text). */
  encode(text: string, options?: EncodeOptions): Int32Array {
    if (typeof text !== 'string') throw badArgument('text', 'a string', text);
    const { addSpecialTokens = false } = checkOptions('options', options, ['addSpecialTokens']) as EncodeOptions;
    return this.backend.encode(text, checkBoolean('addSpecialTokens', addSpecialTokens));
  }

  /**
   * The text of ids. An id outside the vocabulary gives nothing: models pad their vocabulary and may sample such ids.
   */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string {
    checkIdList('ids', ids);
    checkOptions('options', options, ['skipSpecialTokens']);
    const decoder = this.createDecoder(options);
    let text = '';
    for (let i = 0; i < ids.length; i++) text += decoder.push(ids[i] as number);
    return text + decoder.end();
  }

  /**
   * A decoder for ids that come one by one. It holds text back while more ids could change it: bytes of an unfinished
   * character, white space that may be the (stripped) end and, where special tokens are printed by a SentencePiece
   * tokenizer, all text behind one until the next or the end.
   */
  createDecoder(options?: DecoderOptions): TokenDecoder {
    const { skipSpecialTokens = false, after = [] } = checkOptions('options', options, [
      'skipSpecialTokens',
      'after',
    ]) as DecoderOptions;
    checkIdList('after', after);
    return this.textStream(checkBoolean('skipSpecialTokens', skipSpecialTokens), { ids: after, spaces: 0 });
  }

  /**
   * As {@link createDecoder}, for who prints tokens in part.
   * @internal
   */
  textStream(skipSpecialTokens: boolean, context: TextContext): TextStream {
    const stream = this.backend.stream(skipSpecialTokens, context);
    return this.settings.cleanUp ? cleaned(stream) : stream;
  }

  /**
   * What console.log shows.
   * @internal
   */
  [inspect.custom](): string {
    return `Tokenizer(${this.kind}, ${this.vocabSize} ids, ${this.path})`;
  }

  /**
   * The bytes that a token stands for; undefined for special tokens and ids that are none.
   * @internal
   */
  tokenBytes(id: number): Uint8Array | undefined {
    return this.backend.tokenBytes(id);
  }

  /**
   * As {@link tokenBytes}, and what a special token is written as.
   * @internal
   */
  writtenBytes(id: number): Uint8Array | undefined {
    return this.backend.writtenBytes(id);
  }

  /** The token of an id as the vocabulary file writes it, or undefined. */
  idToToken(id: number): string | undefined {
    return this.backend.idToToken(id);
  }

  /** The id of a token, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.backend.tokenToId(token);
  }
}

function cleaned(stream: TextStream): TextStream {
  const cleanUp = new CleanUpStream();
  return {
    push: (id) => cleanUp.push(stream.push(id)),
    pushText: (text) => cleanUp.push(stream.pushText(text)),
    end: () => cleanUp.push(stream.end()) + cleanUp.end(),
    flush: () => cleanUp.push(stream.flush()) + cleanUp.end(),
    get skipsSpace() {
      return stream.skipsSpace;
    },
  };
}

function checkIdList(name: string, ids: unknown): void {
  if (!Array.isArray(ids) && (!ArrayBuffer.isView(ids) || !('length' in ids)))
    throw badArgument(name, 'an array of token ids', ids);
}

/** The vocabulary file of a folder, by the rule that `Tokenizer` states. */
async function findVocabulary(directory: string, settings: TokenizerSettings): Promise<string> {
  const names = await listFolder(directory);
  const models = names.filter((name) => name.endsWith('.model'));
  const model = models.includes('spiece.model') ? 'spiece.model' : models[0];
  if (model !== undefined && !models.includes('spiece.model') && models.length > 1) {
    throw new NeoXPrefixError(
      'NEOX_BAD_TOKENIZER',
      `${directory} has ${models.length} SentencePiece models (${models.join(', ')}) and none is named spiece.model`,
      { path: directory },
    );
  }
  const { tokenizerClass } = settings;
  const isT5 = tokenizerClass === undefined || T5_CLASSES.includes(tokenizerClass);
  if (model !== undefined && isT5) return join(directory, model);
  if (names.includes('tokenizer.json')) return join(directory, 'tokenizer.json');
  if (names.includes(VOCAB_FILE) && names.includes(MERGES_FILE)) return join(directory, VOCAB_FILE);
  if (model !== undefined) {
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `The tokenizer class ${tokenizerClass} of ${directory} is not supported with ${model}`,
      {
        path: directory,
        hint: `supported with a SentencePiece model: ${T5_CLASSES.join(', ')}`,
      },
    );
  }
  throw new NeoXPrefixError(
    'NEOX_FILE_NOT_FOUND',
    `${directory} has no tokenizer: neither spiece.model (or another .model file) nor tokenizer.json, nor vocab.json with merges.txt`,
    { path: directory },
  );
}

/** T5Tokenizer's own defaults; without any settings file, the special pieces that the SentencePiece model declares. */
function withT5Defaults(settings: TokenizerSettings, sentencePiece: SentencePiece): TokenizerSettings {
  const { bosId, eosId, padId, unkId } = sentencePiece.model;
  const declared: Partial<Record<SpecialTokenName, number | undefined>> = {
    bos_token: bosId,
    eos_token: eosId,
    unk_token: unkId,
    pad_token: padId,
  };
  const defaults: Partial<Record<SpecialTokenName, string>> = {
    eos_token: '</s>',
    unk_token: '<unk>',
    pad_token: '<pad>',
  };
  const specialTokens = new Map<SpecialTokenName, AddedToken>();
  for (const name of SPECIAL_TOKEN_NAMES) {
    const id = declared[name];
    const fallback = settings.found ? defaults[name] : id === undefined ? undefined : sentencePiece.idToPiece(id);
    const token = settings.specialTokens.get(name) ?? (fallback === undefined ? undefined : plainToken(fallback));
    if (token !== undefined) specialTokens.set(name, token);
  }
  return { ...settings, specialTokens };
}
