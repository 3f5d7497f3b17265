import { FOUND_CASES } from './found';
import { SETTINGS_CASES } from './settings';
import { TENSOR_CASES } from './tensors';
import { TOKENIZER_CASES } from './tokenizers';
import type { AbuseCase } from './case';

export type { AbuseCase } from './case';

/** Every abuse case, in one place. Tests go through them, and the fuzzer starts from them. */
export const ABUSE: readonly AbuseCase[] = [...TENSOR_CASES, ...TOKENIZER_CASES, ...SETTINGS_CASES, ...FOUND_CASES];
