import type { Recipe } from './recipe';

type ScheduleOptions = Pick<
  Recipe,
  'learningRate' | 'schedule' | 'warmupSteps' | 'warmupRatio' | 'minLearningRate' | 'decaySteps' | 'trainingSteps'
>;

/**
 * Learning rate of optimizer step `step` (from 0): up from 0 over the warm-up in a straight line, then by the schedule
 * to `minLearningRate`, where it stays. With no minimum, these are transformers' get_linear_schedule_with_warmup,
 * get_cosine_schedule_with_warmup and get_constant_schedule_with_warmup (optimization.py).
 *
 * @param runSteps Optimizer steps that the run takes at most: what `decaySteps: 'run'` means.
 */
export function learningRateAt(step: number, recipe: ScheduleOptions, runSteps: number): number {
  const { learningRate: peak, minLearningRate: least } = recipe;
  const end = decaySteps(recipe, runSteps);
  const warmup = warmupSteps(recipe, runSteps);
  if (step < warmup) return peak * (step / warmup);
  if (recipe.schedule === 'constant') return peak;
  const left = Math.max(0, end - step) / Math.max(1, end - warmup); // 1 at the peak, 0 at the end
  const share = recipe.schedule === 'linear' ? left : 0.5 * (1 - Math.cos(Math.PI * left));
  return least + (peak - least) * share;
}

function decaySteps({ decaySteps: steps, trainingSteps }: ScheduleOptions, runSteps: number): number {
  return steps === 'run' ? runSteps : steps === 'trainingSteps' ? trainingSteps : steps;
}

function warmupSteps(recipe: ScheduleOptions, runSteps: number): number {
  return recipe.warmupRatio > 0 ? Math.ceil(recipe.warmupRatio * decaySteps(recipe, runSteps)) : recipe.warmupSteps;
}
