import { freemem } from 'node:os';
import type { NeoXModel } from '../model/neox-model';
export interface TrainingMemory {
  weights: number;
  activations: number;
  encoder: number;
  workspace: number;
  total: number;
}
export function predictTrainingMemory(
  model: NeoXModel,
  o: {
    tokens: number;
    longestRow: number;
    prefixLength: number;
    projection: boolean;
    inputDim: number;
    hiddenDim: number;
    checkpointing: boolean;
  },
): TrainingMemory {
  const weights = model.info().weightBytes;
  const activations = o.tokens * 1000;
  return { weights, activations, encoder: 0, workspace: 0, total: weights + activations };
}
export function availableMemory(): number {
  return freemem();
}
