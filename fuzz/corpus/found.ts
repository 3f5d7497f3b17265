import type { AbuseCase } from './case';

/** What the fuzzer found, each mended since. */
export const FOUND_CASES: readonly AbuseCase[] = [];
