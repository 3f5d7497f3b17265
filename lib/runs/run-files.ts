/** The files in the folder of a training run. */
export const RUN_FILES = {
  /** Every option decided. */
  recipe: 'recipe.json',
  /** The events of the run, one a line. */
  metrics: 'metrics.jsonl',
  /** Size and SHA-256 of each file that is complete. */
  manifest: 'manifest.json',
  /** What the report says of the model and the data. */
  about: 'about.json',
  report: 'report.html',
  /** The prefix with the lowest loss. */
  best: 'best.safetensors',
  /** The prefix at the end. */
  last: 'last.safetensors',
  /** What another run starts from. */
  encoder: 'encoder.safetensors',
  /** Whose run is at work in the folder. */
  lock: 'run.lock',
} as const;

/** A state to resume from: its step, and a number where a step has several. */
export const STATE_FILE = /^state-\d{9}(-\d+)?\.safetensors$/;

/**
 * Whether a file is one that a run may leave. Nothing else in its folder is ever touched, nor the lock, which has an
 * owner.
 */
export function isRunFile(name: string): boolean {
  const own: readonly string[] = Object.values(RUN_FILES).filter((file) => file !== RUN_FILES.lock);
  return own.includes(name) || STATE_FILE.test(name) || name.startsWith('events.out.tfevents.');
}
