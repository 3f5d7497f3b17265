import { NeoXPrefixError } from '../base/errors';
import { BYTES, ProtobufError, ProtobufReader } from '../formats/protobuf';

/** Piece types of sentencepiece_model.proto. */
export const PieceType = { NORMAL: 1, UNKNOWN: 2, CONTROL: 3, USER_DEFINED: 4, UNUSED: 5, BYTE: 6 } as const;

/** More pieces are refused: no vocabulary is near it, and tables by id are allocated. */
const MAX_PIECES = 2 ** 20;
/**
 * Of a piece, or of what an unknown one is printed as. Longer ones would make the search, or the text, long out of
 * proportion.
 */
const MAX_PIECE_BYTES = 4096;

const MODEL_TYPES: Record<number, string> = { 1: 'unigram', 2: 'BPE', 3: 'word', 4: 'character' };

/**
 * What a `spiece.model` file says, with the defaults of sentencepiece_model.proto where it says nothing. V = number of
 * pieces.
 */
export interface SentencePieceModel {
  /** Piece texts in UTF-8: piece i is bytes[pieceStart[i], pieceEnd[i]), a range of the file. */
  readonly bytes: Buffer;
  readonly pieceStart: Int32Array;
  readonly pieceEnd: Int32Array;
  /** Log probabilities, float32 [V]. */
  readonly scores: Float32Array;
  /** Values of `PieceType`, [V]. */
  readonly types: Uint8Array;
  readonly unkId: number;
  /** Ids by byte value, [256]; undefined where byte fallback is off. */
  readonly byteIds?: Int32Array;
  /** The special pieces that the trainer declared, those that exist. */
  readonly bosId?: number;
  readonly eosId?: number;
  readonly padId?: number;
  /** What the raw SentencePiece decoder prints for an unknown piece. */
  readonly unkSurface: string;
  /** Normalisation rules: a double array and replacement texts; empty for none. */
  readonly charsmap: Uint8Array;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
  readonly treatWhitespaceAsSuffix: boolean;
}

interface Spec {
  modelType: number;
  byteFallback: boolean;
  treatWhitespaceAsSuffix: boolean;
  bosId: number;
  eosId: number;
  padId: number;
  unkSurface: string;
  charsmap: Uint8Array;
  addDummyPrefix: boolean;
  removeExtraWhitespaces: boolean;
  escapeWhitespaces: boolean;
  denormalizes: boolean;
}

/**
 * Reads a SentencePiece unigram model. An absent field has the default of the proto2 definition, which is not `false`
 * or 0.
 *
 * @throws NEOX_BAD_TOKENIZER for bytes that are not such a model, NEOX_UNSUPPORTED for BPE, word and character models.
 */
export function parseSentencePieceModel(bytes: Uint8Array, path: string): SentencePieceModel {
  const bad = (what: string, cause?: unknown): NeoXPrefixError =>
    new NeoXPrefixError('NEOX_BAD_TOKENIZER', `${path} is not a valid SentencePiece model: ${what}`, { path, cause });
  try {
    return parse(bytes, path, bad);
  } catch (error) {
    if (error instanceof ProtobufError) throw bad(error.message, error);
    throw error;
  }
}

function parse(bytes: Uint8Array, path: string, bad: (what: string) => NeoXPrefixError): SentencePieceModel {
  const spec: Spec = {
    modelType: 1,
    byteFallback: false,
    treatWhitespaceAsSuffix: false,
    bosId: 1,
    eosId: 2,
    padId: -1,
    unkSurface: ' \u2047 ',
    charsmap: new Uint8Array(0),
    addDummyPrefix: true,
    removeExtraWhitespaces: true,
    escapeWhitespaces: true,
    denormalizes: false,
  };
  const starts: number[] = [];
  const ends: number[] = [];
  const scores: number[] = [];
  const types: number[] = [];

  const reader = new ProtobufReader(bytes);
  const pieceReader = new ProtobufReader(bytes);
  while (reader.next()) {
    if (reader.field === 1) readPiece(reader.message(pieceReader));
    else if (reader.field === 2) readTrainerSpec(reader.message(), spec);
    else if (reader.field === 3) readNormalizerSpec(reader.message(), spec);
    else if (reader.field === 5) spec.denormalizes ||= hasCharsmap(reader.message());
  }

  function readPiece(piece: ProtobufReader): void {
    let start = 0;
    let end = 0;
    let score = 0;
    let type: number = PieceType.NORMAL;
    while (piece.next()) {
      if (piece.field === 1) {
        piece.expect(BYTES);
        start = piece.start;
        end = piece.end;
      } else if (piece.field === 2) score = piece.floatValue();
      else if (piece.field === 3) type = piece.int32Value();
    }
    if (start === end) throw bad(`piece ${starts.length} is empty`);
    if (end - start > MAX_PIECE_BYTES)
      throw bad(`piece ${starts.length} has ${end - start} bytes, more than ${MAX_PIECE_BYTES}`);
    if (type < PieceType.NORMAL || type > PieceType.BYTE)
      throw bad(`piece ${starts.length} has the unknown type ${type}`);
    if (starts.length === MAX_PIECES) throw bad(`it has more than ${MAX_PIECES} pieces`);
    starts.push(start);
    ends.push(end);
    scores.push(score);
    types.push(type);
  }

  if (starts.length === 0) throw bad('it has no pieces');
  if (spec.unkSurface.length > MAX_PIECE_BYTES)
    throw bad(`the text for unknown pieces is longer than ${MAX_PIECE_BYTES} bytes`);
  if (spec.modelType !== 1) {
    const kind = MODEL_TYPES[spec.modelType] ?? `type ${spec.modelType}`;
    throw new NeoXPrefixError(
      'NEOX_UNSUPPORTED',
      `${path} is a SentencePiece ${kind} model; only unigram models are supported`,
      { path },
    );
  }
  if (spec.denormalizes)
    throw new NeoXPrefixError('NEOX_UNSUPPORTED', `${path} has denormalisation rules, which are not supported`, {
      path,
    });

  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const special = (id: number): { id: number } | undefined => (types[id] === PieceType.CONTROL ? { id } : undefined);
  const byteIds = spec.byteFallback ? new Int32Array(256).fill(-1) : undefined;
  let unkId = -1;
  types.forEach((type, id) => {
    if (type === PieceType.UNKNOWN) {
      if (unkId >= 0) throw bad(`pieces ${unkId} and ${id} both are the unknown piece`);
      unkId = id;
    } else if (type === PieceType.BYTE) {
      const piece = buffer.toString('utf8', starts[id], ends[id]);
      const digits = /^<0x([0-9A-F]{2})>$/.exec(piece)?.[1];
      if (digits === undefined) throw bad(`byte piece ${id} is not written as <0xHH>`);
      if (byteIds === undefined) throw bad(`it has the byte piece ${piece} although byte_fallback is false`);
      if (byteIds[parseInt(digits, 16)] !== -1) throw bad(`the byte piece ${piece} occurs twice`);
      byteIds[parseInt(digits, 16)] = id;
    }
  });
  if (unkId < 0) throw bad('it has no unknown piece');
  const missing = byteIds?.indexOf(-1) ?? -1;
  if (missing >= 0) throw bad(`byte_fallback is true but the piece of byte ${missing} is missing`);

  const bos = special(spec.bosId);
  const eos = special(spec.eosId);
  const pad = special(spec.padId);
  return {
    bytes: buffer,
    pieceStart: Int32Array.from(starts),
    pieceEnd: Int32Array.from(ends),
    scores: Float32Array.from(scores),
    types: Uint8Array.from(types),
    unkId,
    ...(byteIds && { byteIds }),
    ...(bos && { bosId: bos.id }),
    ...(eos && { eosId: eos.id }),
    ...(pad && { padId: pad.id }),
    unkSurface: spec.unkSurface,
    charsmap: spec.charsmap,
    addDummyPrefix: spec.addDummyPrefix,
    removeExtraWhitespaces: spec.removeExtraWhitespaces,
    escapeWhitespaces: spec.escapeWhitespaces,
    treatWhitespaceAsSuffix: spec.treatWhitespaceAsSuffix,
  };
}

function readTrainerSpec(reader: ProtobufReader, spec: Spec): void {
  while (reader.next()) {
    if (reader.field === 3) spec.modelType = reader.int32Value();
    else if (reader.field === 24) spec.treatWhitespaceAsSuffix = reader.boolValue();
    else if (reader.field === 35) spec.byteFallback = reader.boolValue();
    else if (reader.field === 41) spec.bosId = reader.int32Value();
    else if (reader.field === 42) spec.eosId = reader.int32Value();
    else if (reader.field === 43) spec.padId = reader.int32Value();
    else if (reader.field === 44) spec.unkSurface = Buffer.from(reader.bytesValue()).toString('utf8');
  }
}

function readNormalizerSpec(reader: ProtobufReader, spec: Spec): void {
  while (reader.next()) {
    if (reader.field === 2) spec.charsmap = reader.bytesValue();
    else if (reader.field === 3) spec.addDummyPrefix = reader.boolValue();
    else if (reader.field === 4) spec.removeExtraWhitespaces = reader.boolValue();
    else if (reader.field === 5) spec.escapeWhitespaces = reader.boolValue();
  }
}

function hasCharsmap(reader: ProtobufReader): boolean {
  let found = false;
  while (reader.next()) if (reader.field === 2) found = reader.bytesValue().length > 0;
  return found;
}
