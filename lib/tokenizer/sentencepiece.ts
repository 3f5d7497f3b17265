import { NeoXPrefixError } from '../base/errors';
import { Charsmap } from './charsmap';
import { Normalizer } from './normalizer';
import { PieceTrie } from './piece-trie';
import type { SentencePieceModel } from './sentencepiece-model';
import { PieceType, parseSentencePieceModel } from './sentencepiece-model';
import { charLength } from './utf8';

/** Below the worst piece's score by this much: what an unknown character costs (kUnkPenalty). */
const UNKNOWN_PENALTY = 10;
/** FLT_MAX: where its search for the worst score starts. */
const FLOAT_MAX = (2 - 2 ** -23) * 2 ** 127;
const KEPT_BYTES = 1 << 20;

const utf8 = new TextEncoder();

/**
 * SentencePiece's unigram segmentation (Kudo 2018; google/sentencepiece, src/unigram_model.cc EncodeOptimized): the
 * best path over the bytes of the normalised text. Sums are float32 as there (0.2.2), and of equal ones the first found
 * stays, because ties are common: "!!!!!!" has many. A lone surrogate in the text counts as U+FFFD (Python's
 * SentencePiece refuses such text).
 */
export class SentencePiece {
  readonly model: SentencePieceModel;

  private readonly normalizer: Normalizer;
  private readonly trie: PieceTrie;
  /** Scores by id; those of user-defined pieces depend on the length and are computed. */
  private readonly scores: Float32Array;
  private readonly unkScore: number;
  private readonly reserved = new Map<string, number>();
  /** Piece texts and ids, filled when asked for. */
  private readonly texts: (string | undefined)[];
  private pieceIds: Map<string, number> | undefined;

  private input = new Uint8Array(4096);
  // The best path that ends before byte i of the normalised text: its sum, where its last piece starts, and that piece.
  private bestScore = new Float32Array(4096);
  private bestStart = new Int32Array(4096);
  private bestId = new Int32Array(4096);
  private result = new Int32Array(4096);

  /** @throws NEOX_BAD_TOKENIZER or NEOX_UNSUPPORTED, naming `path`, when the bytes are not a unigram model. */
  constructor(
    bytes: Uint8Array,
    private readonly path: string,
  ) {
    const model = parseSentencePieceModel(bytes, path);
    this.model = model;
    this.scores = model.scores;
    this.texts = new Array<string | undefined>(this.size);
    this.trie = new PieceTrie(this.size * 4);
    try {
      const symbols = this.addPieces();
      const charsmap = model.charsmap.length === 0 ? undefined : new Charsmap(model.charsmap);
      this.normalizer = new Normalizer(model, charsmap, symbols);
    } catch (error) {
      throw this.asModelError(error);
    }
    let minScore = FLOAT_MAX;
    for (let id = 0; id < this.size; id++) {
      if (model.types[id] === PieceType.NORMAL) minScore = Math.min(minScore, model.scores[id] as number);
    }
    this.unkScore = Math.fround(minScore - UNKNOWN_PENALTY);
  }

  get size(): number {
    return this.model.types.length;
  }

  /** The text of a piece, or undefined outside the vocabulary. */
  idToPiece(id: number): string | undefined {
    const { bytes, pieceStart, pieceEnd } = this.model;
    if (pieceStart[id] === undefined) return undefined;
    return (this.texts[id] ??= bytes.toString('utf8', pieceStart[id], pieceEnd[id]));
  }

  /** The id of a piece, or undefined. */
  pieceToId(piece: string): number | undefined {
    const id = this.reserved.get(piece);
    if (id !== undefined) return id;
    this.pieceIds ??= new Map(
      Array.from({ length: this.size }, (_, index) => [this.idToPiece(index) as string, index]),
    );
    return this.pieceIds.get(piece);
  }

  /**
   * The ids of a text; `unknownId` may give another id than the unknown piece's to a run of unknown characters (without
   * byte fallback).
   */
  encode(text: string, unknownId?: (run: string) => number | undefined): Int32Array {
    if (this.input.length > KEPT_BYTES) this.input = new Uint8Array(4096);
    if (this.input.length < text.length * 3) this.input = new Uint8Array(text.length * 3);
    const { written } = utf8.encodeInto(text, this.input);
    try {
      this.normalizer.normalize(this.input, written);
    } catch (error) {
      throw this.asModelError(error);
    }
    const size = this.normalizer.length;
    if (size === 0) return new Int32Array(0);
    this.search(this.normalizer.output, size);
    return this.collect(this.normalizer.output, size, unknownId);
  }

  private asModelError(error: unknown): unknown {
    if (!(error instanceof RangeError)) return error;
    const message = `${this.path} is not a valid SentencePiece model: ${error.message}`;
    return new NeoXPrefixError('NEOX_BAD_TOKENIZER', message, { path: this.path, cause: error });
  }

  /** Fills `trie` and `reserved`; returns a trie of the user-defined symbols, if there are any. */
  private addPieces(): PieceTrie | undefined {
    const { bytes, pieceStart, pieceEnd, scores, types } = this.model;
    let symbols: PieceTrie | undefined;
    for (let id = 0; id < this.size; id++) {
      const type = types[id];
      const start = pieceStart[id] as number;
      const end = pieceEnd[id] as number;
      let isNew: boolean;
      if (type === PieceType.NORMAL || type === PieceType.USER_DEFINED || type === PieceType.UNUSED) {
        isNew = this.trie.add(bytes, start, end, id);
      } else {
        const piece = this.idToPiece(id) as string;
        isNew = !this.reserved.has(piece);
        this.reserved.set(piece, id);
      }
      if (!isNew) throw new RangeError(`the piece '${this.idToPiece(id)}' occurs twice`);
      if (!Number.isFinite(scores[id]))
        throw new RangeError(`the score of the piece '${this.idToPiece(id)}' is ${scores[id]}`);
      if (type === PieceType.USER_DEFINED) {
        symbols ??= new PieceTrie();
        symbols.add(bytes, start, end, id);
      }
    }
    return symbols;
  }

  /** Fills bestScore, bestStart and bestId for every end in (0, size]. */
  private search(bytes: Uint8Array, size: number): void {
    this.resize(size + 1);
    const { bestScore, bestStart, bestId, trie, scores, unkScore } = this;
    const { types, unkId } = this.model;
    bestStart.fill(-1, 0, size + 1);
    bestScore[0] = 0;
    for (let start = 0; start < size;) {
      const charEnd = Math.min(start + charLength(bytes[start] as number), size);
      const scoreHere = bestScore[start] as number;
      let coversChar = false;
      let node = 0;
      for (let end = start; end < size;) {
        node = trie.step(node, bytes[end++] as number);
        if (node < 0) break;
        const id = trie.value(node);
        if (id < 0) continue;
        const type = types[id];
        if (type === PieceType.UNUSED) continue;
        const score = type === PieceType.USER_DEFINED ? userDefinedScore(end - start) : (scores[id] as number);
        const candidate = Math.fround(score + scoreHere);
        if (bestStart[end] === -1 || candidate > (bestScore[end] as number)) {
          bestScore[end] = candidate;
          bestStart[end] = start;
          bestId[end] = id;
        }
        if (end === charEnd) coversChar = true;
      }
      if (!coversChar) {
        const candidate = Math.fround(unkScore + scoreHere);
        if (bestStart[charEnd] === -1 || candidate > (bestScore[charEnd] as number)) {
          bestScore[charEnd] = candidate;
          bestStart[charEnd] = start;
          bestId[charEnd] = unkId;
        }
      }
      start = charEnd;
    }
  }

  /**
   * Follows the best path back from the end. An unknown run is one unknown piece, or its bytes where the model falls
   * back to bytes.
   */
  private collect(
    bytes: Uint8Array,
    size: number,
    unknownId: ((text: string) => number | undefined) | undefined,
  ): Int32Array {
    const { bestStart, bestId, result } = this;
    const { unkId, byteIds } = this.model;
    // Ids are written from the back: a piece covers at least one byte, so `size` slots are enough.
    let at = size;
    for (let end = size; end > 0;) {
      let start = bestStart[end] as number;
      if (bestId[end] !== unkId) {
        result[--at] = bestId[end] as number;
      } else if (byteIds !== undefined) {
        for (let i = end - 1; i >= start; i--) result[--at] = byteIds[bytes[i] as number] as number;
      } else {
        while (start > 0 && bestId[start] === unkId) start = bestStart[start] as number;
        result[--at] = unknownId?.(utf8Text(bytes, start, end)) ?? unkId;
      }
      end = start;
    }
    return result.slice(at, size);
  }

  private resize(length: number): void {
    const fits = length <= this.bestScore.length;
    if (fits && (this.bestScore.length <= KEPT_BYTES || length > KEPT_BYTES)) return;
    const size = Math.max(4096, fits ? length : Math.min(length * 2, length + KEPT_BYTES));
    this.bestScore = new Float32Array(size);
    this.bestStart = new Int32Array(size);
    this.bestId = new Int32Array(size);
    this.result = new Int32Array(size);
  }
}

function utf8Text(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8');
}

/**
 * What a user-defined piece of so many bytes scores in SentencePiece 0.2.2 (measured; releases before gave -0.1 for
 * any).
 */
function userDefinedScore(length: number): number {
  return Math.fround(length * 0.1 - 0.1);
}
