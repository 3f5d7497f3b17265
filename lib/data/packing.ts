import type { Encoder } from './sample';

/** How lines are packed; `packing: 'lines'` of {@link DatasetOptions} says what it means. */
export interface PackOptions {
  suffix: string;
  maxLength: number;
  keepRemainder: boolean;
}

/** What the lines of a document gave. */
export interface PackedLines {
  samples: Int32Array[];
  /** Whether the last lines did not fill a sample. */
  hasRemainder: boolean;
}

/** Packs the lines of one document. */
export function packLines(
  lines: readonly string[],
  tokenizer: Encoder,
  { suffix, maxLength, keepRemainder }: PackOptions,
): PackedLines {
  const samples: Int32Array[] = [];
  const flush = (ids: Int32Array): void => {
    if (ids.length > 0) samples.push(ids);
  };
  let packed = '';
  for (const line of lines) {
    const longer = `${packed}\n${line}${suffix}`;
    if (tokenizer.encode(longer).length > maxLength) {
      flush(tokenizer.encode(packed));
      packed = `${line}${suffix}`;
    } else {
      packed = longer;
    }
  }
  if (keepRemainder) flush(tokenizer.encode(packed));
  return { samples, hasRemainder: packed.trim() !== '' };
}
