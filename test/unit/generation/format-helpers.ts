import { startConstraint } from '../../../lib/generation/constraints/compiler';
import type { Constraint } from '../../../lib/generation/constraints/constraint';
import type { OutputFormat } from '../../../lib/generation/constraints/output-format';
import { Random, wrong } from '../../helpers';

/** The end of a text, behind the 256 bytes. */
export const END = 256;
const SPECIAL = 257;
const PIECES = ['今日', 'は', '{"', '": ', ', "', 'true', 'です。'];
export const VOCABULARY = 300;

/** As much of a model as formats look at: each byte is a token, and so are some pieces; the last ids are no text. */
export function byteModel(limits: { seconds?: number; bytes?: number } = {}): never {
  const tokenBytes = (id: number): Uint8Array | undefined => {
    if (id < END) return Uint8Array.of(id);
    const piece = PIECES[id - SPECIAL - 1];
    return piece === undefined ? undefined : Buffer.from(piece);
  };
  const formatLimits = { seconds: 20, bytes: 2 ** 29, ...limits };
  const addDependent = (): void => undefined;
  return wrong({ config: { vocabSize: VOCABULARY }, tokenizer: { tokenBytes }, formatLimits, addDependent });
}

export const pieceId = (piece: string): number => SPECIAL + 1 + PIECES.indexOf(piece);

export const allowed = ({ mask }: Constraint): number[] =>
  Array.from({ length: VOCABULARY }, (_, id) => id).filter((id) => ((mask![id >> 5]! >>> (id & 31)) & 1) === 1);

/** Whether a text has a format. */
export async function accepts(model: never, format: OutputFormat, text: string): Promise<boolean> {
  const constraint = await startConstraint(model, format, Int32Array.of(END));
  try {
    for (const byte of Buffer.from(text)) {
      if (!allowed(constraint).includes(byte)) return false;
      constraint.accept(byte);
      await constraint.findMask();
    }
    return allowed(constraint).includes(END);
  } finally {
    constraint.dispose();
  }
}

/** Texts drawn from all that a format allows; those that do not come to an end are left out. */
export async function drawTexts(model: never, format: OutputFormat, count: number, seed: number): Promise<string[]> {
  const random = new Random(seed);
  const texts: string[] = [];
  for (let i = 0; i < count; i++) {
    const constraint = await startConstraint(model, format, Int32Array.of(END));
    const bytes: number[] = [];
    for (let length = 0; length < 300; length++) {
      const ids = allowed(constraint);
      const id = ids.includes(END) && random.next() < 0.25 ? END : random.pick(ids);
      if (id === END) {
        texts.push(Buffer.from(bytes).toString('utf8'));
        break;
      }
      bytes.push(...(id < END ? [id] : Buffer.from(PIECES[id - SPECIAL - 1]!)));
      constraint.accept(id);
      await constraint.findMask();
    }
    constraint.dispose();
  }
  return texts;
}
