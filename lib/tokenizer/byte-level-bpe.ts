import { isError } from '../base/errors';
import { createRequire } from 'node:module';
import { show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { isObject, type JsonObject } from '../formats/json';
import type { TextContext, TextStream, TokenizerBackend } from './backend';
import { checkParts, preTokenizerOf } from './byte-level-parts';
import type { TokenizerSettings } from './settings';
import { checkAddedCount, checkContent, MAX_TOKEN_ID } from './settings';

/** The part of @huggingface/tokenizers that is used here. */
interface HuggingFaceTokenizer {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
}
interface HuggingFaceModule {
  Tokenizer: new (tokenizer: object, config: object) => HuggingFaceTokenizer;
}

const MOST_BYTES_OF_CHAR = 4;
const LONE_SURROGATE = /\p{Surrogate}/gu;

/**
 * A byte-level BPE tokenizer.json (Pythia, OpenCALM, RedPajama, Dolly). Encoding is @huggingface/tokenizers'; decoding
 * is done here, so that it can go one id at a time: the bytes of all tokens are one run, as in the Rust tokenizers, and
 * invalid UTF-8 becomes U+FFFD.
 */
export class ByteLevelBackend implements TokenizerBackend {
  readonly kind = 'bpe';
  readonly vocabSize: number;

  private readonly tokens: (string | undefined)[] = [];
  private readonly ids = new Map<string, number>();
  private readonly special = new Set<number>();
  private readonly encoder: HuggingFaceTokenizer;

  /** @throws NEOX_BAD_TOKENIZER or NEOX_UNSUPPORTED, naming `path`. */
  constructor(
    file: JsonObject,
    settings: TokenizerSettings,
    private readonly path: string,
  ) {
    const bad = (what: string, cause?: unknown): NeoXPrefixError =>
      new NeoXPrefixError('NEOX_BAD_TOKENIZER', `${path}: ${what}`, { path, cause });
    const { model } = file;
    if (!isObject(model)) throw bad('it has no model');
    const type: unknown = model.type ?? (Array.isArray(model.merges) ? 'BPE' : undefined);
    if (type !== 'BPE' || !isByteLevel(file.decoder)) {
      throw new NeoXPrefixError(
        'NEOX_UNSUPPORTED',
        `${path} is not a byte-level BPE tokenizer but ${show(type)} with the decoder ${decoderName(file.decoder)}`,
        {
          path,
          hint:
            type === 'Unigram'
              ? 'put the spiece.model of the model into its folder: it is exact where tokenizer.json is not'
              : 'supported: byte-level BPE, and spiece.model',
        },
      );
    }
    const put = (token: string, id: unknown): void => {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_TOKEN_ID)
        throw bad(`the id of the token '${token}' is not an integer between 0 and ${MAX_TOKEN_ID}`);
      this.tokens[id] = token;
      this.ids.set(token, id);
    };
    if (!isObject(model.vocab)) throw bad('its model has no vocabulary');
    for (const [token, id] of Object.entries(model.vocab)) put(token, id);
    const added = file.added_tokens ?? [];
    if (!Array.isArray(added)) throw bad('added_tokens is not a list');
    checkAddedCount(added.length, path);
    for (const token of added as unknown[]) {
      if (!isObject(token)) throw bad('an added token has no content');
      put(checkContent(token.content, 'an added token', path), token.id);
      if (token.special === true) this.special.add(token.id as number);
      if (token.single_word === true) {
        // @huggingface/tokenizers finds such a token inside of words, too.
        throw new NeoXPrefixError(
          'NEOX_UNSUPPORTED',
          `${path} has the added token ${show(token.content)} with single_word: true, which is not supported`,
          { path, hint: 'set single_word to false if the token may be found inside of words' },
        );
      }
    }
    for (const token of [...settings.specialTokens.values(), ...settings.additionalSpecialTokens]) {
      const id = this.ids.get(token.content);
      if (id !== undefined) this.special.add(id);
    }
    this.vocabSize = this.tokens.length;
    checkParts(file, path);

    const { Tokenizer } = createRequire(__filename)('@huggingface/tokenizers') as HuggingFaceModule;
    try {
      this.encoder = new Tokenizer(
        {
          normalizer: null,
          post_processor: null,
          ...file,
          pre_tokenizer: preTokenizerOf(file.pre_tokenizer ?? null),
          added_tokens: added,
          model: { ...model, type },
        },
        {},
      );
    } catch (error) {
      throw bad((error as Error).message, error);
    }
  }

  encode(text: string, addSpecialTokens: boolean): Int32Array {
    if (text === '' && !addSpecialTokens) return new Int32Array(0);
    let ids: (number | undefined)[];
    try {
      ({ ids } = this.encoder.encode(text.replace(LONE_SURROGATE, '\ufffd'), { add_special_tokens: addSpecialTokens }));
    } catch (cause) {
      const message = `${this.path} cannot encode a text: ${isError(cause) ? cause.message : String(cause)}`;
      throw new NeoXPrefixError('NEOX_BAD_TOKENIZER', message, { path: this.path, cause });
    }
    // A model without an unknown token drops what it does not know, as the Rust tokenizers do.
    return Int32Array.from(ids.filter((id) => id !== undefined));
  }

  stream(skipSpecialTokens: boolean, { ids }: TextContext): TextStream {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    const push = (id: number): string => {
      const token = this.tokens[id];
      if (token === undefined || (skipSpecialTokens && this.special.has(id))) return '';
      return decoder.decode(toBytes(token), { stream: true });
    };
    for (let i = skipSpecialTokens ? this.contextStart(ids) : 0; i < ids.length; i++) push(ids[i] as number);
    return {
      push,
      pushText: (text) => decoder.decode(Buffer.from(text, 'utf8'), { stream: true }),
      end: () => decoder.decode(),
      flush: () => '',
      skipsSpace: false,
    };
  }

  /** Where the last bytes begin that may be a character which goes on. */
  private contextStart(ids: ArrayLike<number>): number {
    let bytes = 0;
    for (let i = ids.length - 1; i >= 0; i--) {
      bytes += this.tokenBytes(ids[i] as number)?.length ?? 0;
      if (bytes >= MOST_BYTES_OF_CHAR) return i;
    }
    return 0;
  }

  tokenBytes(id: number): Uint8Array | undefined {
    const token = this.tokens[id];
    return token === undefined || this.special.has(id) ? undefined : toBytes(token);
  }

  writtenBytes(id: number): Uint8Array | undefined {
    const token = this.tokens[id];
    return token === undefined ? undefined : toBytes(token);
  }

  idToToken(id: number): string | undefined {
    return this.tokens[id];
  }

  tokenToId(token: string): number | undefined {
    return this.ids.get(token);
  }
}

/**
 * The bytes behind the characters of byte-level tokens: printable Latin-1 stands for itself, the other 68 bytes for
 * U+0100 and up.
 */
const BYTE_OF_CHAR = new Map<string, number>();
for (let byte = 0, moved = 0x100; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  BYTE_OF_CHAR.set(String.fromCharCode(printable ? byte : moved++), byte);
}

const CHAR_OF_BYTE = [...BYTE_OF_CHAR.keys()];

/** Bytes as GPT-2 writes them: a printable character for each. */
export function byteLevelText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => CHAR_OF_BYTE[byte]).join('');
}

/** A token with any other character (an added one) stands for its own UTF-8. */
function toBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHAR.get(token[i] as string);
    if (byte === undefined) return Buffer.from(token, 'utf8');
    bytes[i] = byte;
  }
  return bytes;
}

function isByteLevel(decoder: unknown): boolean {
  return isObject(decoder) && decoder.type === 'ByteLevel';
}

function decoderName(decoder: unknown): string {
  return show(isObject(decoder) ? decoder.type : decoder);
}
