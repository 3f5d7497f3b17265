import { joinIds } from '../base/joined-ids';
import type { TextContext, TextStream, TokenizerBackend } from './backend';
import { PieceDecoder } from './piece-decoder';
import type { SentencePiece } from './sentencepiece';
import { PieceType } from './sentencepiece-model';
import type { AddedToken, TokenizerSettings } from './settings';
import { StripStream, trimEndAsPython, trimStartAsPython } from './streams';

const SPACE_SYMBOL = '\u2581';
/** Pieces that stand for their own text. */
const TEXT_TYPES: ReadonlySet<number | undefined> = new Set([PieceType.NORMAL, PieceType.USER_DEFINED]);

/**
 * A SentencePiece model under the rules of transformers' slow T5Tokenizer (4.57, legacy = True), which is what rinna's
 * GPT-NeoX models were trained with: special tokens are split out of the text and each part between them is encoded by
 * itself; decoding prints special tokens and strips the ends.
 */
export class T5Backend implements TokenizerBackend {
  readonly kind = 'sentencepiece';
  readonly vocabSize: number;
  /**
   * Tokens that decoding prints apart, joined by spaces: added ones that are not special, and additional special ones
   * past the pieces.
   */
  readonly separate = new Set<number>();
  /** Ids of all special tokens: bos, eos, unk, sep, pad, cls, mask and the additional ones. */
  readonly special = new Set<number>();

  /** Added tokens by content; all special tokens are among them. */
  private readonly added = new Map<string, { id: number; token: AddedToken }>();
  private readonly addedTexts = new Map<number, string>();
  private readonly splitter: RegExp | undefined;

  constructor(
    readonly sentencePiece: SentencePiece,
    readonly settings: TokenizerSettings,
  ) {
    for (const [id, token] of settings.addedTokens) this.add(token, id);
    const extraIds = extraIdTokens(settings);
    for (const [i, token] of extraIds.placed.entries()) this.add(token, sentencePiece.size - 1 + extraIds.count - i);
    const additional = [...settings.additionalSpecialTokens, ...extraIds.listed];
    let next = this.countTokens();
    for (const token of [...settings.specialTokens.values(), ...additional]) {
      const known = this.tokenToId(token.content);
      if (!this.added.has(token.content)) this.add(token, known ?? next++);
      this.special.add(this.tokenToId(token.content) as number);
    }
    const named = new Set([...settings.specialTokens.values()].map((token) => token.content));
    for (const [content, { id }] of this.added) {
      if (!this.special.has(id) || (id >= sentencePiece.size && !named.has(content))) this.separate.add(id);
    }
    this.vocabSize = [...this.addedTexts.keys()].reduce((size, id) => Math.max(size, id + 1), sentencePiece.size);
    const contents = [...this.added.keys()].sort((a, b) => b.length - a.length);
    this.splitter =
      contents.length === 0
        ? undefined
        : new RegExp(contents.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'), 'g');
  }

  encode(text: string, addSpecialTokens: boolean): Int32Array {
    const parts: Int32Array[] = this.split(text).map((part) => {
      const added = this.added.get(part);
      return added === undefined ? this.sentencePiece.encode(part, this.unknownId) : Int32Array.of(added.id);
    });
    const { eosId } = this;
    const last = parts.findLast((part) => part.length > 0)?.at(-1);
    if (addSpecialTokens && eosId !== undefined && last !== eosId) parts.push(Int32Array.of(eosId));
    return parts.length === 1 ? (parts[0] as Int32Array) : joinIds(parts);
  }

  stream(skipSpecialTokens: boolean, { ids, spaces }: TextContext): TextStream {
    const stream = new T5Stream(this, skipSpecialTokens);
    // Special tokens that are printed have a say in the spaces of all that follows.
    for (let i = skipSpecialTokens ? this.contextStart(ids) : 0; i < ids.length; i++) stream.push(ids[i] as number);
    if (ids.length > 0) stream.settle(spaces);
    return stream;
  }

  /** The last piece that prints something whatever stands before it: behind it nothing is at the start of a text. */
  private contextStart(ids: ArrayLike<number>): number {
    for (let i = ids.length - 1; i >= 0; i--) {
      const id = ids[i] as number;
      const piece = this.special.has(id) || this.separate.has(id) ? undefined : this.sentencePiece.idToPiece(id);
      if (piece === undefined || !TEXT_TYPES.has(this.sentencePiece.model.types[id])) continue;
      if (trimStartAsPython(piece.replaceAll(SPACE_SYMBOL, ' ')) !== '') return i;
    }
    return 0;
  }

  /** As SentencePiece decodes a piece inside of a text; what T5Tokenizer does at the ends of a text does not count. */
  tokenBytes(id: number): Uint8Array | undefined {
    const piece = this.special.has(id) || this.separate.has(id) ? undefined : this.sentencePiece.idToPiece(id);
    const type = this.sentencePiece.model.types[id];
    if (piece === undefined || type === PieceType.CONTROL || type === PieceType.UNKNOWN) return undefined;
    if (type === PieceType.BYTE) return Uint8Array.of(parseInt(piece.slice(3, 5), 16));
    return Buffer.from(piece.replaceAll(SPACE_SYMBOL, ' '), 'utf8');
  }

  writtenBytes(id: number): Uint8Array | undefined {
    const added = this.special.has(id) || this.separate.has(id) ? this.idToToken(id) : undefined;
    const isUnknown = this.sentencePiece.model.types[id] === PieceType.UNKNOWN;
    const text = added ?? (isUnknown ? this.sentencePiece.model.unkSurface : undefined);
    return text === undefined ? this.tokenBytes(id) : Buffer.from(text, 'utf8');
  }

  idToToken(id: number): string | undefined {
    return this.addedTexts.get(id) ?? this.sentencePiece.idToPiece(id);
  }

  tokenToId(token: string): number | undefined {
    return this.added.get(token)?.id ?? this.sentencePiece.pieceToId(token);
  }

  /** T5Tokenizer goes through strings: a run of unknown characters that spells a token has that token's id. */
  private readonly unknownId = (run: string): number | undefined => this.tokenToId(run);

  private get eosId(): number | undefined {
    const eos = this.settings.specialTokens.get('eos_token');
    return eos === undefined ? undefined : this.tokenToId(eos.content);
  }

  private add(token: AddedToken, id: number): void {
    this.added.set(token.content, { id, token });
    this.addedTexts.set(id, token.content);
  }

  /** Tokens altogether, by content. */
  private countTokens(): number {
    return (
      this.sentencePiece.size +
      [...this.added.keys()].filter((content) => this.sentencePiece.pieceToId(content) === undefined).length
    );
  }

  /** The text in parts, each an added token (the longest of those that start first) or the text between two. */
  private split(text: string): string[] {
    const { splitter } = this;
    if (splitter === undefined || text.search(splitter) < 0) return [text];
    const parts: string[] = [];
    let from = 0;
    for (const match of text.matchAll(splitter)) {
      if (match.index > from) parts.push(text.slice(from, match.index));
      parts.push(match[0]);
      from = match.index + match[0].length;
    }
    if (from < text.length) parts.push(text.slice(from));

    parts.forEach((part, i) => {
      const token = this.added.get(part)?.token;
      if (token === undefined) return;
      const left = parts[i - 1];
      const right = parts[i + 1];
      if (token.rstrip && right) parts[i + 1] = trimStartAsPython(right);
      if (token.lstrip && left) parts[i - 1] = trimEndAsPython(left);
      if (token.singleWord && left && !left.endsWith(' ')) {
        parts[i - 1] = (parts[i - 1] ?? '') + part;
        parts[i] = '';
      } else if (token.singleWord && right && !right.startsWith(' ')) {
        parts[i + 1] = part + (parts[i + 1] ?? '');
        parts[i] = '';
      }
    });
    return parts.filter((part) => part !== '');
  }
}

/**
 * The sentinels <extra_id_N> that T5Tokenizer adds: `placed` get ids of their own from the top down, `listed` follow as
 * special tokens.
 */
function extraIdTokens({ extraIds, additionalSpecialTokens, hasAdditionalSpecialTokens }: TokenizerSettings): {
  count: number;
  placed: AddedToken[];
  listed: AddedToken[];
} {
  const sentinel = (i: number, strip: boolean): AddedToken => ({
    content: `<extra_id_${i}>`,
    lstrip: strip,
    rstrip: strip,
    singleWord: false,
  });
  const count = extraIds;
  if (!hasAdditionalSpecialTokens) {
    const placed = Array.from({ length: count }, (_, i) => sentinel(i, true));
    return { count, placed, listed: placed };
  }
  const listed = additionalSpecialTokens.filter((token) => token.content.includes('<extra_id_'));
  if (listed.length === 0)
    return { count, placed: [], listed: Array.from({ length: count }, (_, i) => sentinel(i, false)) };
  return { count, placed: listed.map((_, i) => sentinel(i, true)), listed: [] };
}

/**
 * T5Tokenizer.decode, one id at a time. Text behind a special token is held until the next special token or the end,
 * because only then is it known whether a space goes before it.
 */
class T5Stream implements TextStream {
  private out = '';
  /** Whether a part was printed already, so that the next starts with a space. */
  private joins = false;
  private part: Part | undefined;

  constructor(
    private readonly tokenizer: T5Backend,
    private readonly skipSpecialTokens: boolean,
  ) {}

  push(id: number): string {
    const { tokenizer } = this;
    const token = tokenizer.idToToken(id);
    const special = tokenizer.special.has(id);
    if (token === undefined || (special && this.skipSpecialTokens)) return '';
    if (tokenizer.separate.has(id)) {
      this.endPart(false);
      this.print(token);
    } else {
      this.part ??= new Part(tokenizer);
      this.printPart(special ? this.part.pushSpecial(token) : this.part.pushPiece(id, token));
    }
    return this.take();
  }

  pushText(text: string): string {
    this.part ??= new Part(this.tokenizer);
    this.printPart(this.part.pushText(text));
    return this.take();
  }

  end(): string {
    this.endPart(true);
    return this.take();
  }

  flush(): string {
    return this.part?.flush() ?? '';
  }

  get skipsSpace(): boolean {
    return this.part === undefined || this.part.skipsSpace;
  }

  /** Counts what `end` would print now as printed, and so many characters of white space. */
  settle(spaces: number): void {
    this.take();
    this.part?.settle(spaces);
  }

  private endPart(isLast: boolean): void {
    if (this.part === undefined) return;
    this.printPart(this.part.end());
    // An empty part counts only when it is the last one.
    if (isLast && !this.part.printed) this.print('');
    this.part = undefined;
  }

  private printPart(text: string): void {
    if (text === '' || this.part === undefined) return;
    if (this.part.printed) this.out += text;
    else this.print(text);
    this.part.printed = true;
  }

  private print(text: string): void {
    this.out += this.joins ? ` ${text}` : text;
    this.joins = true;
  }

  private take(): string {
    const { out } = this;
    this.out = '';
    return out;
  }
}

/** What one call of T5Tokenizer.convert_tokens_to_string prints: the tokens between two separate ones. */
class Part {
  printed = false;

  private readonly strip = new StripStream();
  private pieces: PieceDecoder;
  private isFirst = true;
  /** Text behind a special token; undefined before the first one, where it need not be held. */
  private held: string[] | undefined;
  private afterSpecial = false;

  constructor(private readonly tokenizer: T5Backend) {
    this.pieces = new PieceDecoder(tokenizer.sentencePiece);
  }

  pushPiece(id: number, token: string): string {
    const text = this.decodePiece(id, token);
    this.isFirst = false;
    this.afterSpecial = false;
    if (this.held === undefined) return this.strip.push(text);
    this.held.push(text);
    return '';
  }

  pushSpecial(token: string): string {
    const text = this.pieces.end();
    const before = (this.held ?? []).join('') + text;
    const out = this.strip.push(this.held === undefined || this.afterSpecial ? before + token : ` ${before}${token}`);
    this.pieces = new PieceDecoder(this.tokenizer.sentencePiece);
    this.held = [];
    this.isFirst = false;
    this.afterSpecial = true;
    return out;
  }

  pushText(text: string): string {
    const all = this.pieces.pushUnknown(text);
    this.isFirst = false;
    this.afterSpecial = false;
    if (this.held === undefined) return this.strip.push(all);
    this.held.push(all);
    return '';
  }

  end(): string {
    return this.strip.push((this.held ?? []).join('') + this.pieces.end()) + this.strip.end();
  }

  flush(): string {
    return this.strip.flush();
  }

  get skipsSpace(): boolean {
    return !this.strip.started;
  }

  settle(spaces: number): void {
    if (this.held !== undefined) {
      this.strip.push(this.held.join(''));
      this.held = [];
    }
    this.strip.skip(spaces);
  }

  /** The first token loses its leading space before SentencePiece sees it, and may then be another piece or none. */
  private decodePiece(id: number, token: string): string {
    if (!this.isFirst || this.tokenizer.settings.addPrefixSpace === false || !token.startsWith(SPACE_SYMBOL))
      return this.pieces.push(id);
    const rest = token.slice(1);
    const restId = this.tokenizer.sentencePiece.pieceToId(rest);
    return restId === undefined ? this.pieces.pushUnknown(rest) : this.pieces.push(restId);
  }
}
