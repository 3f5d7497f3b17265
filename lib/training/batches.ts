import type { Row } from '../data/sample';
import { packRows } from '../model/rows';

/** A sample's rows, checked against the model. */
export type SampleRows = readonly Row[];

/** A batch as the addon takes it. */
export interface PackedBatch {
  tokens: Int32Array;
  targets: Int32Array;
  lengths: Int32Array;
}

/** The rows of some samples as one batch, one behind the other: no padding, and no attention from one to another. */
export function packBatch(samples: readonly SampleRows[]): PackedBatch {
  const rows = samples.flat();
  return {
    ...packRows(rows.map(({ inputs }) => inputs)),
    targets: packRows(rows.map(({ targets }) => targets)).tokens,
  };
}
