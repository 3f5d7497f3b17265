/** Bytes of the UTF-8 character that starts with `byte`, by its leading bits alone; 1 for a byte that starts none. */
export function charLength(byte: number): number {
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/**
 * Bytes of the valid UTF-8 character at `position` (1 to 4), or 0 where there is none: truncated, overlong, a surrogate
 * or above U+10FFFF.
 */
export function validCharLength(bytes: ArrayLike<number>, position: number, end: number): number {
  const lead = bytes[position] as number;
  if (lead < 0x80) return 1;
  const length = charLength(lead);
  if (length === 1 || lead < 0xc2 || lead > 0xf4 || position + length > end) return 0;
  for (let i = 1; i < length; i++) if (((bytes[position + i] as number) & 0xc0) !== 0x80) return 0;
  const second = bytes[position + 1] as number;
  if ((lead === 0xe0 && second < 0xa0) || (lead === 0xed && second > 0x9f)) return 0;
  if ((lead === 0xf0 && second < 0x90) || (lead === 0xf4 && second > 0x8f)) return 0;
  return length;
}
