import type { SentencePiece } from './sentencepiece';
import { PieceType } from './sentencepiece-model';
import type { Stream } from './streams';
import { charLength, validCharLength } from './utf8';

const SPACE_SYMBOL = '\u2581';

/**
 * SentencePiece's decoder (google/sentencepiece, src/sentencepiece_processor.cc Decode) for ids, one at a time. Byte
 * pieces are held until they make a character; each byte that cannot becomes one U+FFFD.
 */
export class PieceDecoder implements Stream<number> {
  private atStart = true;
  private tookStartSpace = false;
  private empty = true;
  private bytes: number[] = [];

  constructor(private readonly sentencePiece: SentencePiece) {}

  /** Takes an id of the vocabulary. */
  push(id: number): string {
    const { model } = this.sentencePiece;
    const piece = this.sentencePiece.idToPiece(id) as string;
    const type = model.types[id];
    if (type === PieceType.BYTE) {
      this.bytes.push(parseInt(piece.slice(3, 5), 16));
      return this.note(this.takeBytes(false));
    }
    const before = this.beforeText();
    if (type === PieceType.CONTROL) return before;
    if (type === PieceType.UNKNOWN) return before + this.note(model.unkSurface);
    let text = piece;
    if (this.atStart && (model.addDummyPrefix || model.removeExtraWhitespaces) && text.startsWith(SPACE_SYMBOL)) {
      text = text.slice(1);
      // Where extra white space is removed, every space at the start is; else only the one that the encoder put there.
      this.tookStartSpace = !model.removeExtraWhitespaces;
    }
    return before + this.note(text.replaceAll(SPACE_SYMBOL, ' '));
  }

  /** Takes a text that is no piece of the vocabulary, which SentencePiece prints as it is. */
  pushUnknown(text: string): string {
    return this.beforeText() + this.note(text);
  }

  end(): string {
    return this.takeBytes(true);
  }

  /** Ends a run of bytes and settles whether the next text is at the start. */
  private beforeText(): string {
    const out = this.note(this.takeBytes(true));
    if (this.tookStartSpace || !this.empty) this.atStart = false;
    this.tookStartSpace = false;
    return out;
  }

  private note(text: string): string {
    if (text !== '') this.empty = false;
    return text;
  }

  /** The characters that the held bytes make; `all` when no more bytes follow. */
  private takeBytes(all: boolean): string {
    const { bytes } = this;
    let out = '';
    let position = 0;
    while (position < bytes.length) {
      const length = validCharLength(bytes, position, bytes.length);
      if (length > 0) out += Buffer.from(bytes.slice(position, position + length)).toString('utf8');
      else if (!all && this.mayBecomeChar(position)) break;
      else out += '\ufffd';
      position += Math.max(1, length);
    }
    this.bytes = bytes.slice(position);
    return out;
  }

  private mayBecomeChar(position: number): boolean {
    const { bytes } = this;
    if (bytes.length - position >= charLength(bytes[position] as number)) return false;
    return bytes.slice(position + 1).every((byte) => (byte & 0xc0) === 0x80);
  }
}
